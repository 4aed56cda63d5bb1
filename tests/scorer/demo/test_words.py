"""Figures in words."""

from __future__ import annotations

import pytest

from scorer.demo import words


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.000_21, "0.21"), (0.0174, "17.4"), (0.25, "250"), (4.917, "4,917")]
)
def test_milliseconds(seconds: float | None, text: str) -> None:
    assert words.milliseconds(seconds) == text


@pytest.mark.parametrize(("share", "text"), [(None, "-"), (0.0, "0.0 %"), (0.123, "12.3 %"), (1.0, "100.0 %")])
def test_percent(share: float | None, text: str) -> None:
    assert words.percent(share) == text


def test_nearly_everything_is_not_everything() -> None:
    assert words.percent(0.99999, 2) == "99.99 %"


def test_times() -> None:
    assert words.minutes(65.9) == "1:05"
    assert words.span(600) == "10 minutes"
    assert words.span(60) == "60 seconds"


def test_curve() -> None:
    assert words.curve([5, 0, 50, 100], 3) == "▁▅█"
    assert words.curve([], 3) == ""
    assert words.curve([1, 2], 0) == ""
