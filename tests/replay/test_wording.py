"""Values of features in words."""

import math

import numpy as np
import pytest

from replay.wording import in_words, span, unlg


def lg(n: int) -> float:
    """The catalogue's logarithm, as its docstring says it."""
    exponent = int(math.log2(n + 1))
    return float(np.float32(exponent + (n + 1) / 2**exponent - 1))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 8, 100, 4_999, 65_535, 1_000_000])
def test_logarithms_are_undone(n: int) -> None:
    assert unlg(lg(n)) == n


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (lg(1_200), "lg count", "1,200"),
        (lg(3_000_000), "lg minor units", "about 2,999,999"),
        (lg(192_000), "lg ms", "3 min 12 s"),
        (40.0, "lg ms", "never"),
        (0.25, "share", "25.0%"),
        (1.0, "0 or 1", "yes"),
        (0.0, "0 or 1", "no"),
        (0.7, "", ""),
    ],
)
def test_units(value: float, unit: str, words: str) -> None:
    assert in_words(value, unit) == words


@pytest.mark.parametrize(
    ("ms", "words"),
    [(0, "0 ms"), (999, "999 ms"), (61_000, "1 min 1 s"), (3_600_000, "1 h 0 min"), (90_000_000, "1 d 1 h")],
)
def test_spans(ms: int, words: str) -> None:
    assert span(ms) == words
