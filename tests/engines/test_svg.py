"""Axes know where values lie and which of them are round."""

import pytest

from engines.svg import Axis, Plot


def test_places_and_ticks_of_both_kinds_of_axis() -> None:
    log, linear = Axis("p", 1e-3, 1, log=True, percent=True), Axis("n", 0, 80_000)
    assert log.place(1e-3) == 0
    assert log.place(1) == log.place(5) == 1
    assert log.place(1e-2) == pytest.approx(1 / 3)
    assert [log.text(tick) for tick in log.ticks()] == ["0.1%", "1%", "10%", "100%"]
    assert linear.place(20_000) == 0.25
    assert [linear.text(tick) for tick in linear.ticks()] == ["0", "20,000", "40,000", "60,000", "80,000"]


def test_marks_and_names_are_drawn() -> None:
    plot = Plot(Axis("a < b", 0, 1), Axis("y", 0, 1))
    plot.line([(0, 0), (1, 1)], "a", "A & B")
    plot.dots([(0.5, 0.5)], "b")
    plot.bars([0, 0.5, 1], [0.2, 0.4], "a")
    plot.cells([0, 1], [0, 1], [[7]])
    text = str(plot)
    assert "a &lt; b" in text
    assert "A &amp; B" in text
    assert "7 events" in text
    assert (text.count("<circle"), text.count("<rect"), text.count("<polyline")) == (1, 3, 1)
