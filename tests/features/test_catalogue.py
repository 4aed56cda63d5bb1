"""The catalogue: one name a column, values that every machine agrees on, a fingerprint that notices changes."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import catalogue, rows
from features.catalogue import FEATURES, HISTORY_CHANNELS, N_FEATURES, NEVER, Feature, fingerprint
from features.kernel import lg
from features.quantities import QUANTITIES
from tests.features import oracle

lg_of: Callable[[int], np.float32] = lg.py_func  # type: ignore[attr-defined]  # the function itself, not compiled


def test_columns_are_named_once_and_described() -> None:
    assert N_FEATURES >= 60
    assert len({feature.name for feature in FEATURES}) == N_FEATURES
    assert len(set(QUANTITIES)) == len(QUANTITIES)
    assert all(feature.description and feature.source in QUANTITIES for feature in FEATURES)
    assert all(channel.name and channel.description for channel in HISTORY_CHANNELS)


def test_the_fingerprint_is_the_same_in_every_process() -> None:
    code = "from features.catalogue import fingerprint; print(fingerprint())"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True, text=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert seen == {fingerprint()}
    assert len(fingerprint()) == 16


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (catalogue, "KERNEL_VERSION", 99),
        (catalogue, "FUTURE_MS", 1),
        (catalogue, "NEVER", 41.0),
        (catalogue, "FEATURES", FEATURES[:-1]),
        (catalogue, "FEATURES", (FEATURES[1], FEATURES[0], *FEATURES[2:])),
        (catalogue, "FEATURES", (FEATURES[0]._replace(argument=1), *FEATURES[1:])),
        (catalogue, "HISTORY_CHANNELS", HISTORY_CHANNELS[:-1]),
        (rows, "ROW_VERSION", 99),
        (rows, "SHORT", rows.SHORT[:-1]),
        (rows, "KIND_OF_CODE", rows.KIND_OF_CODE[::-1]),
        (rows, "VIEWER", rows.PAIR_ROW),
    ],
)
def test_the_fingerprint_notices(module: Any, name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint()
    monkeypatch.setattr(module, name, value)

    assert fingerprint.__wrapped__() != before


@given(st.integers(0, 2**46 - 1))
def test_lg_is_the_exact_value_rounded_once(n: int) -> None:
    assert lg_of(n) == np.float32(oracle.lg(n))
    assert lg_of(n) <= lg_of(n + 1)


@pytest.mark.parametrize("power", range(46))
def test_lg_is_log2_at_powers_of_two(power: int) -> None:
    assert lg_of(2**power - 1) == power


def test_every_age_is_younger_than_never() -> None:
    assert lg_of(2**40 - 2) <= NEVER
    assert lg_of(int(30 * 365.25 * 86_400_000)) < NEVER


def test_the_day_goes_round_once() -> None:
    circle = catalogue.day_circle()
    assert len(circle) == 96
    assert circle[0] == (0.0, 1.0)
    assert circle[24] == (1.0, 0.0)
    assert all(math.isclose(math.hypot(*point), 1.0, abs_tol=1e-6) for point in circle)
    assert not any(math.copysign(1, value) < 0 for point in circle for value in point if value == 0)


def test_a_feature_reads_like_a_line_of_the_table() -> None:
    assert FEATURES[0] == Feature(
        "viewer_10s_events", "events of the viewer, in 10s", "lg count", "10s", "viewer.10s.events", catalogue.LOG
    )
