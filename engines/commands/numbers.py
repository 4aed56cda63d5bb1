"""Numbers that a person may give a command; what is none is told in a sentence."""

from __future__ import annotations

import argparse
import math


def whole(text: str) -> int:
    """Read a whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def positive(text: str) -> int:
    """Read a whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def amount(text: str) -> float:
    """Read a number from 0 on."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return number


def ascending(text: str) -> tuple[int, ...]:
    """Read whole numbers above 0."""
    parts = text.split(",")
    numbers = tuple(int(part) for part in parts if part.isdecimal())
    if len(numbers) != len(parts) or list(numbers) != sorted(set(numbers)) or not numbers[0]:
        raise argparse.ArgumentTypeError(f"{text!r} must be whole numbers above 0, ascending, with commas between")
    return numbers
