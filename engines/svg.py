"""Plots as SVG text, for pages that need nothing else: axes, lines, steps, dots and cells.

Colours come from the page: a mark has the class `a`, `b` or `guide`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final, Literal, NamedTuple

Series = Literal["a", "b", "guide"]
Point = tuple[float, float]

_WIDTH: Final = 520
_HEIGHT: Final = 330
_LEFT: Final = 62
_RIGHT: Final = 24
_TOP: Final = 14
_BOTTOM: Final = 46


class Axis(NamedTuple):
    """From where to where, and how: a logarithmic axis begins above 0."""

    label: str
    low: float
    high: float
    log: bool = False
    percent: bool = False

    def place(self, value: float) -> float:
        """Return how far along the axis a value is, 0 to 1; what lies outside is put at the end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Return round values along it."""
        if self.log:
            decades = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [10.0**decade for decade in decades]
        raw = (self.high - self.low) / 5
        unit = 10 ** math.floor(math.log10(raw))
        step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [step * i for i in range(first, last + 1)]

    def text(self, value: float) -> str:
        """Return a tick's label."""
        if self.percent:
            return f"{100 * value:.6g}%"
        return f"{value:,.6g}" if 1e-4 <= abs(value) < 1e6 or value == 0 else f"{value:.0e}"


class Plot:
    """One plot; its text is the SVG."""

    def __init__(self, x: Axis, y: Axis) -> None:
        """Draw the axes."""
        self._x = x
        self._y = y
        self._marks: list[str] = []
        self._legend: list[tuple[Series, str]] = []

    def line(self, points: Iterable[Point], series: Series, name: str = "") -> None:
        """Join points; a name goes into the legend."""
        path = " ".join(f"{self._across(x):.1f},{self._down(y):.1f}" for x, y in points)
        self._marks.append(f'<polyline class="line {series}" points="{path}"/>')
        if name:
            self._legend.append((series, name))

    def dots(self, points: Iterable[Point], series: Series) -> None:
        """Mark points; pointing at one shows its values."""
        for x, y in points:
            told = f"{self._x.text(_rounded(x))}, {self._y.text(_rounded(y))}"
            self._marks.append(
                f'<circle class="dot {series}" cx="{self._across(x):.1f}" cy="{self._down(y):.1f}" r="4">'
                f"<title>{told}</title></circle>"
            )

    def bars(self, edges: Sequence[float], heights: Sequence[float], series: Series) -> None:
        """Draw a histogram: one height for each pair of neighbouring edges."""
        for low, high, height in zip(edges[:-1], edges[1:], heights, strict=True):
            left, right, top, base = self._across(low), self._across(high), self._down(height), self._down(self._y.low)
            self._marks.append(
                f'<rect class="bar {series}" x="{left:.1f}" y="{top:.1f}" width="{max(right - left - 1, 0.5):.1f}" '
                f'height="{max(base - top, 0):.1f}"><title>{height:,.6g}</title></rect>'
            )

    def cells(self, xs: Sequence[float], ys: Sequence[float], counts: Sequence[Sequence[float]]) -> None:
        """Shade cells by the logarithm of their count: counts[i][j] lies between xs[i], xs[i+1] and ys[j], ys[j+1]."""
        most = math.log1p(max(map(max, counts), default=0)) or 1.0
        for i, column in enumerate(counts):
            for j, count in enumerate(column):
                if count:
                    left, right = self._across(xs[i]), self._across(xs[i + 1])
                    base, top = self._down(ys[j]), self._down(ys[j + 1])
                    self._marks.append(
                        f'<rect class="cell" x="{left:.1f}" y="{top:.1f}" width="{right - left:.2f}" '
                        f'height="{base - top:.2f}" opacity="{0.12 + 0.88 * math.log1p(count) / most:.2f}">'
                        f"<title>{count:,.0f} events</title></rect>"
                    )

    def __str__(self) -> str:
        """Return the SVG."""
        x0, x1, y0, y1 = _LEFT, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM, _TOP
        parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">']
        for tick in self._x.ticks():
            at = self._across(tick)
            parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{y0}" y2="{y1}"/>')
            parts.append(f'<text x="{at:.1f}" y="{y0 + 17}" text-anchor="middle">{self._x.text(tick)}</text>')
        for tick in self._y.ticks():
            at = self._down(tick)
            parts.append(f'<line class="grid" x1="{x0}" x2="{x1}" y1="{at:.1f}" y2="{at:.1f}"/>')
            parts.append(f'<text x="{x0 - 7}" y="{at + 4:.1f}" text-anchor="end">{self._y.text(tick)}</text>')
        parts += self._marks
        parts.append(
            f'<text class="label" x="{(x0 + x1) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">'
            f"{escape(self._x.label)}</text>"
        )
        middle = (y0 + y1) / 2
        parts.append(
            f'<text class="label" transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">'
            f"{escape(self._y.label)}</text>"
        )
        for i, (series, name) in enumerate(self._legend):
            parts.append(
                f'<line class="line {series}" x1="{x0 + 12}" x2="{x0 + 32}" y1="{28 + 18 * i}" y2="{28 + 18 * i}"/>'
            )
            parts.append(f'<text class="name" x="{x0 + 38}" y="{32 + 18 * i}">{escape(name)}</text>')
        return "\n".join([*parts, "</svg>"])

    def _across(self, x: float) -> float:
        return _LEFT + self._x.place(x) * (_WIDTH - _LEFT - _RIGHT)

    def _down(self, y: float) -> float:
        return _HEIGHT - _BOTTOM - self._y.place(y) * (_HEIGHT - _TOP - _BOTTOM)


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
