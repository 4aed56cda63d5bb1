"""What a feature's value says, in words: the catalogue's logarithms undone."""

from __future__ import annotations

from typing import Final

from features.catalogue import NEVER

_SPANS: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))
_EXACT: Final = 1 << 20  # a float32 tells whole numbers up to here from their neighbours


def in_words(value: float, unit: str) -> str:
    """Say what a value in a unit of the catalogue stands for; empty where it says so itself."""
    if unit == "lg ms":
        return "never" if value >= NEVER else span(unlg(value))
    if unit.startswith("lg "):
        number = unlg(value)
        return f"{number:,}" if number < _EXACT else f"about {number:,}"
    if unit == "share":
        return f"{value:.1%}"
    if unit == "0 or 1":
        return "yes" if value else "no"
    return ""


def unlg(value: float) -> int:
    """Undo `features.catalogue`'s piecewise-linear log2."""
    exponent = int(value)
    return round((value - exponent + 1) * (1 << exponent)) - 1


def span(ms: int) -> str:
    """Say a length of time in its two largest units."""
    parts: list[str] = []
    for length, unit in _SPANS:
        count, ms = divmod(ms, length)
        if count or parts:
            parts.append(f"{count} {unit}")
        if len(parts) == 2:
            break
    return " ".join(parts) if parts else f"{ms} ms"
