"""A page that stands alone: text, tiles, tables and plots in one HTML file, light or dark as the reader has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from engines.svg import Plot

_STYLE: Final = """
:root { color-scheme: light dark; --paper: #fbfaf8; --card: #fff; --ink: #23222a; --soft: #6d6a78; --rule: #e6e3dd;
  --a: #7a7887; --b: #d9480f; --cell: #3b5bdb; }
@media (prefers-color-scheme: dark) { :root { --paper: #17161c; --card: #201f27; --ink: #eceaf2; --soft: #9a97a8;
  --rule: #34323d; --a: #a5a2b5; --b: #ff922b; --cell: #74a0ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 44px 28px 72px; }
h1 { font-size: 27px; font-weight: 650; letter-spacing: -.01em; margin: 0 0 4px; }
h2 { font-size: 18px; font-weight: 650; margin: 44px 0 4px; }
p { margin: 0 0 16px; color: var(--soft); max-width: 92ch; }
p strong, p.lead { color: var(--ink); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px; margin: 22px 0; }
.tile, figure, .table { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
.tile { padding: 13px 16px; }
.tile b { display: block; font-size: 23px; font-weight: 600; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
.tile i { display: block; color: var(--soft); font-size: 12.5px; font-style: normal; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 470px), 1fr)); gap: 16px; }
figure { margin: 0; padding: 16px 16px 12px; }
figcaption { font-weight: 600; margin-bottom: 6px; }
figcaption span { display: block; color: var(--soft); font-weight: 400; font-size: 13px; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 11.5px; fill: var(--soft); font-variant-numeric: tabular-nums; }
svg .label { font-size: 12px; } svg .name { fill: var(--ink); font-size: 12px; }
.grid { stroke: var(--rule); } .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.line.a { stroke: var(--a); } .line.b { stroke: var(--b); }
.line.guide { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 4 4; }
.dot.a, .bar.a { fill: var(--a); } .dot.b, .bar.b { fill: var(--b); } .cell { fill: var(--cell); }
.dot { stroke: var(--card); stroke-width: 1.5; }
.table { overflow-x: auto; margin: 16px 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 16px; text-align: right; border-top: 1px solid var(--rule); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; font-size: 13px; border-top: 0; }
th:first-child, td:first-child { text-align: left; }
td.same { color: var(--soft); }
"""


def document(title: str, lead: str, parts: Iterable[str]) -> str:
    """Put a page together."""
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n<main>\n<h1>{escape(title)}</h1>\n"
        f'<p class="lead">{escape(lead)}</p>\n' + "\n".join(parts) + "\n</main>\n</html>\n"
    )


def tiles(facts: Sequence[tuple[str, str, str]]) -> str:
    """Show a few figures large: name, value, remark."""
    each = (
        f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b><i>{escape(remark)}</i></div>'
        for name, value, remark in facts
    )
    return f'<div class="tiles">{"".join(each)}</div>'


def section(title: str, text: str, *parts: str) -> str:
    """Begin a new matter."""
    return "\n".join([f"<h2>{escape(title)}</h2>", f"<p>{escape(text)}</p>", *parts])


def plots(*each: tuple[str, str, Plot]) -> str:
    """Show plots beside each other: title, remark, plot."""
    figures = (
        f"<figure><figcaption>{escape(title)}<span>{escape(remark)}</span></figcaption>{plot}</figure>"
        for title, remark, plot in each
    )
    return f'<div class="plots">{"".join(figures)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Show a table; its first column holds names."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="table"><table><tr>{top}</tr>{body}</table></div>'


def text_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay the same out for a terminal."""
    lines = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
