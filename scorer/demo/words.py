"""Figures as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

UNKNOWN: Final = "-"
_LEVELS: Final = "▁▂▃▄▅▆▇█"


def milliseconds(seconds: float | None) -> str:
    """Give a duration in ms, in about three digits."""
    if seconds is None:
        return UNKNOWN
    ms = seconds * 1000
    return f"{ms:.2f}" if ms < 1 else f"{ms:.1f}" if ms < 100 else f"{ms:,.0f}"


def percent(share: float | None, digits: int = 1) -> str:
    """Give a share in per cent; what is nearly everything is not rounded up to it."""
    if share is None:
        return UNKNOWN
    rounded = round(share, digits + 2)
    shown = rounded if share == 1 else min(rounded, 1 - 10 ** -(digits + 2))
    return f"{shown * 100:.{digits}f} %"


def minutes(seconds: float) -> str:
    """Give a duration as 1:05."""
    whole = int(seconds)
    return f"{whole // 60}:{whole % 60:02}"


def span(seconds: int) -> str:
    """Give a round duration in words."""
    return f"{seconds // 60} minutes" if seconds >= 120 else f"{seconds} seconds"


def curve(values: Sequence[float], width: int) -> str:
    """Draw the last values as a line of bars, the highest one full."""
    shown = list(values)[-width:] if width > 0 else []
    top = max(shown, default=0.0)
    return "".join(_LEVELS[min(7, int(8 * value / top))] for value in shown) if top else ""
