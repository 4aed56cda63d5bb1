"""The quick tier of fuzzing: what once broke something, what is good, and some hundred inputs near either."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import SHARES
from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS


def test_every_target_is_fuzzed() -> None:
    assert set(SHARES) == set(TARGETS)
    assert sum(SHARES.values()) == pytest.approx(1)


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_and_what_once_broke_something(target: str) -> None:
    for seed in seeds(target):
        TARGETS[target](seed)


@st.composite
def near(draw: st.DrawFn, target: str) -> bytes:
    """An input with some bytes changed, cut out, put in or taken from another."""
    known = seeds(target)
    data = bytearray(draw(st.sampled_from(known)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 3)):
            case 0:
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                del data[at : at + draw(st.integers(1, 40))]
            case 2:
                data[at:at] = draw(st.binary(max_size=8))
            case _:
                other = draw(st.sampled_from(known))
                data[at:] = other[draw(st.integers(0, len(other))) :]
    return bytes(data)


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_near_them(target: str) -> None:
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(near(target) | st.binary(max_size=200))
    def one(data: bytes) -> None:
        TARGETS[target](data)

    one()
