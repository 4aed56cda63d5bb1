"""Numbers that a person may give a command; what is none is told in a sentence."""

from __future__ import annotations

import argparse
import math
from typing import Final, TypeVar

_N = TypeVar("_N", int, float)
_MOST: Final = 1_000_000
"""Of anything that is counted or measured: rows, runs, seconds. More would fill the memory, or not end."""
_LARGEST: Final = 2**63 - 1
"""Of any number, a seed's as well: what is written down holds no larger one."""


def whole(text: str) -> int:
    """Read a whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return _limited(int(text), _LARGEST)


def positive(text: str) -> int:
    """Read a whole number above 0, a million at most."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return _limited(int(text), _MOST)


def amount(text: str) -> float:
    """Read a number from 0 on, a million at most."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return _limited(number, _MOST)


def ascending(text: str) -> tuple[int, ...]:
    """Read whole numbers above 0, a million at most."""
    parts = text.split(",")
    numbers = tuple(int(part) for part in parts if part.isdecimal())
    if len(numbers) != len(parts) or list(numbers) != sorted(set(numbers)) or not numbers[0]:
        raise argparse.ArgumentTypeError(f"{text!r} must be whole numbers above 0, ascending, with commas between")
    _limited(numbers[-1], _MOST)
    return numbers


def _limited(number: _N, most: int) -> _N:
    if number > most:
        raise argparse.ArgumentTypeError(f"{number} is more than {most:,}")
    return number
