"""Limits: each holds by itself, at the value where it says, and every one has its reason in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from engines.gate.checks import check
from engines.gate.limits import Limits, read_limits
from engines.gate.verdict import Check, Moves, Speed, Timing
from engines.model import ModelError
from tests.engines.gate.test_accuracy import STILL, judged

DOCS = Path(__file__).parents[3] / "docs" / "engines.md"


def speed(p50: float, p99: float = 0.0, sizes: tuple[int, ...] = (1, 64)) -> Speed:
    return Speed(
        name="x",
        timings=tuple(Timing(size=size, p50_us=p50, p99_us=p99 or p50, per_second=1) for size in sizes),
    )


def outcome(name: str, **options: object) -> Check:
    given = {"accuracy": judged(), "moves": STILL, "speed": speed(10), "gpu": True, **options}
    found = check(Limits(), given.pop("accuracy"), given.pop("moves"), given.pop("speed"), **given)  # type: ignore[arg-type]
    return next(each for each in found if each.name.startswith(name))


def test_an_engine_that_is_good_and_fast_passes() -> None:
    found = check(Limits(), judged(), STILL, speed(10), gpu=True, serving=speed(10), lowered=True, exact=speed(20))
    assert [each.name for each in found if not each.passed] == []


@pytest.mark.parametrize(("p99", "gpu", "passed"), [(900, True, True), (1100, True, False), (1100, False, True)])
def test_a_call_has_its_share_of_the_budget(p99: float, gpu: bool, passed: bool) -> None:
    assert outcome("p99 of a call", speed=speed(10, p99), gpu=gpu).passed == passed


def test_large_batches_are_not_held_to_the_budget() -> None:
    slow = Speed(name="x", timings=(*speed(10).timings, *speed(9_000, sizes=(1024,)).timings))
    assert outcome("p99 of a call", speed=slow).passed
    assert not outcome("p99 of a call", speed=speed(9_000, sizes=(1024,))).passed  # it has no others


@pytest.mark.parametrize(("p99", "passed"), [(124, True), (126, False)])
def test_a_version_is_not_slower_than_the_one_it_replaces(p99: float, passed: bool) -> None:
    found = outcome("p99 over the serving", speed=speed(10, p99), serving=speed(10, 100))
    assert found.passed == passed
    assert f"{p99 / 100:.2f}" in found.found


def test_a_version_of_which_no_size_can_be_compared_does_not_pass() -> None:
    found = outcome("p99 over the serving", speed=speed(10, sizes=(512, 1024)), serving=speed(10, sizes=()))
    assert not found.passed
    assert "not measured" in found.found


def test_the_worst_size_counts() -> None:
    uneven = Speed(name="x", timings=(speed(10).timings[0], *speed(10, 20, sizes=(64,)).timings))
    found = outcome("p99 over the serving", speed=uneven, serving=speed(10))
    assert not found.passed
    assert "at 64 rows" in found.name


@pytest.mark.parametrize(("p50", "passed"), [(96, True), (98, False)])
def test_lower_precision_must_be_faster(p50: float, passed: bool) -> None:
    assert outcome("time over the FP32", speed=speed(p50), lowered=True, exact=speed(100)).passed == passed


def test_time_over_the_fp32_engine_is_a_mean_over_the_sizes() -> None:
    slow, fast = (
        speed(100, sizes=(1, 8, 64)),
        Speed(name="x", timings=(*speed(100, sizes=(1, 8)).timings, *speed(50, sizes=(64,)).timings)),
    )
    found = outcome("time over the FP32", speed=fast, lowered=True, exact=slow)
    assert found.passed
    assert found.found == f"{0.5 ** (1 / 3):.3f}"


def test_lower_precision_without_the_fp32_engine_does_not_pass() -> None:
    found = outcome("time over the FP32", lowered=True)
    assert not found.passed
    assert "build the FP32 engine of this model" in found.found


@pytest.mark.parametrize("field", ["slot", "padding", "bucket"])
def test_no_answer_fails(field: str) -> None:
    moves: Moves = msgspec.structs.replace(STILL, **{field: float("nan")})
    assert len([each for each in check(Limits(), judged(), moves, speed(1), gpu=True) if not each.passed]) == 1


def test_limits_are_read_and_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "limits.toml"
    path.write_text("max_change = 0.5\n")
    assert read_limits(path) == Limits(max_change=0.5)


def test_a_limit_is_a_number_that_a_verdict_can_hold(tmp_path: Path) -> None:
    path = tmp_path / "limits.toml"
    path.write_text("max_change = inf\n")
    with pytest.raises(ModelError, match=r"sets max_change to inf\. For no limit to speak of, set 1e300"):
        read_limits(path)


@pytest.mark.parametrize("text", ["max_chnage = 1.0", "slower = 0.5", "flips = 'a'", "= 1"])
def test_limits_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "limits.toml"
    path.write_text(text)
    with pytest.raises(ModelError, match=r"holds no limits of the gate .* It may set: pr_auc_loss, auc_loss"):
        read_limits(path)


def test_the_documentation_tells_every_limit_and_its_default() -> None:
    told = dict(re.findall(r"^\| `(\w+)` \| ([\d.e-]+) \|", DOCS.read_text(), re.MULTILINE))
    assert {name: float(value) for name, value in told.items()} == msgspec.structs.asdict(Limits())
