"""What a person may give a benchmark; what makes no sense is told in a sentence before anything starts."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
from pathlib import Path

from engines.commands.numbers import amount
from tests.benchmarks.traffic import named


def from_one(text: str) -> float:
    """Read a number from 1 on."""
    if (number := amount(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return number


def add_load(parser: argparse.ArgumentParser, *, rate: float, warmup: float, source: str) -> None:
    """Add what says how events are sent."""
    parser.add_argument("--rate", type=from_one, default=rate, help="events a second (%(default)g)")
    parser.add_argument("--seconds", type=amount, default=30.0, help="length of the load (%(default)g)")
    parser.add_argument("--warmup", type=amount, default=warmup, help="of it, seconds that do not count (%(default)g)")
    parser.add_argument("--source", type=named, default=source, help="module:function, seed -> events (%(default)s)")


def check_load(parser: argparse.ArgumentParser, asked: argparse.Namespace, counted_s: float) -> None:
    """End with a sentence if less than `counted_s` is left after the warm-up."""
    if asked.seconds < (least := asked.warmup + counted_s):
        parser.error(f"--seconds must be {least:g} or more: what leaves in the warm-up does not count")


def writable(text: str) -> Path:
    """Read the name of a folder that can be written to, or can be made."""
    path = Path(text).absolute()
    there = next(each for each in (path, *path.parents) if os.access(each, os.F_OK))
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise argparse.ArgumentTypeError(f"{text!r} is no folder, or none that can be written to")
    return Path(text)


def command(text: str) -> str:
    """Check that a command names a program; `python` is this interpreter."""
    try:
        program = shlex.split(text)[0]
    except (ValueError, IndexError):
        raise argparse.ArgumentTypeError(f"{text!r} is no command") from None
    if program != "python" and not shutil.which(program):
        raise argparse.ArgumentTypeError(f"{text!r}: there is no program {program}")
    return text
