"""Reference pages written from the declarations: `python -m scorer.reference` writes them to `docs/`."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec

from scorer.config import ENV_FILE, ENV_PREFIX, Config
from scorer.instruments import Histogram
from scorer.layers import Secret, keys, sections, variable
from scorer.metrics import Metrics

FOLDER: Final = Path(__file__).parent.parent / "docs"

_CONFIGURATION: Final = f"""# Configuration

`tipstream serve --config tipstream.toml` reads a TOML file; the variable `{ENV_FILE}` may name it instead. Each key
also has a variable, which wins over the file. A key or a `{ENV_PREFIX}*` variable that is not on this page is refused.
Paths are relative to the working directory. `deploy/tipstream.toml` is a file with every default.
"""

_METRICS: Final = """# Metrics

`/metrics` serves these to Prometheus. With `--workers` each sample has a label `worker` as well. No label holds an id
of a viewer, a room or an event.

| metric | type | labels | what it says |
|---|---|---|---|
"""


def documents() -> dict[str, str]:
    """Return the text of each page by its file name."""
    return {"configuration.md": "".join(_configuration()), "metrics.md": "".join(_metrics())}


def main() -> None:
    """Write the pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in documents().items():
        (FOLDER / name).write_text(text, "utf-8")


def _configuration() -> Iterator[str]:
    yield _CONFIGURATION
    pages: dict[str, type[msgspec.Struct]] = {**sections(Config), "": Config}
    for name, kind in pages.items():
        title = f"[{name}]" if name else "Top level"
        intro = " ".join((kind.__doc__ or "").split()) if name else "Above the first section of the file."
        yield f"\n## {title}\n\n{intro}\n\n| key | variable | value | default | meaning |\n|---|---|---|---|---|\n"
        defaults = kind()
        for key, hint in keys(kind).items():
            text, values = _declared(hint)
            default = _default(getattr(defaults, key))
            yield f"| `{key}` | `{variable(ENV_PREFIX, name, key)}` | {values} | {default} | {text} |\n"


def _metrics() -> Iterator[str]:
    yield _METRICS
    for instrument in Metrics().instruments():
        suffix = "_total" if instrument.kind == "counter" else ""
        labels = ", ".join(f"`{label}`" for label in instrument.labels)
        if isinstance(instrument, Histogram) and instrument.labels:
            labels += " (" + ", ".join(instrument.snapshot()) + ")"
        yield f"| `{instrument.name}{suffix}` | {instrument.kind} | {labels} | {instrument.text} |\n"


def _declared(hint: Any) -> tuple[str, str]:
    """Return a key's description and, in words, the values that it takes."""
    text, bounds = "", ""
    while get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)
        for note in notes:
            text = note.description or text
            bounds = _bounds(note) or bounds
    return text, _kind(hint) + bounds


def _kind(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        return _kind(get_args(hint)[0]) + _bounds(get_args(hint)[1])
    if get_origin(hint) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_kind(part) for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is tuple:
        return "list of text"
    names: dict[Any, str] = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return {**names, Path: "path", Secret: "secret"}[hint]


def _bounds(note: msgspec.Meta) -> str:
    if note.ge is None and note.le is None:
        return ""
    return f", {note.ge} to {note.le}"


def _default(value: object) -> str:
    if value in (None, "", ()):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    main()
