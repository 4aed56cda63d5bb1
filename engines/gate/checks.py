"""Figures held against the limits: what passes and what does not, decided here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from engines.gate.limits import Limits
from engines.gate.speed import ratio
from engines.gate.verdict import Accuracy, Check, Moves, Speed

_BUDGETED: Final = 256  # rows: what the service puts into a batch at most, unless told otherwise


def check(
    limits: Limits,
    accuracy: Accuracy,
    moves: Moves,
    speed: Speed,
    *,
    gpu: bool,
    serving: Speed | None = None,
    lowered: bool = False,
    exact: Speed | None = None,
) -> tuple[Check, ...]:
    """Hold everything against the limits.

    `serving` is the version to be replaced, where it runs on the same kind of device. `lowered` says that the candidate
    is FP16 or INT8; `exact` is then the FP32 engine of the same model, without which it cannot pass.
    """
    found = [*_accuracy(limits, accuracy), *_moves(limits, moves), _within_budget(limits, speed, gpu)]
    if serving is not None:
        found.append(_not_slower(limits, speed, serving))
    if lowered:
        found.append(_faster(limits, speed, exact))
    return tuple(found)


def _accuracy(limits: Limits, accuracy: Accuracy) -> Iterator[Check]:
    before, after = accuracy.reference, accuracy.candidate
    yield _at_most("PR-AUC lost to the reference", 1 - after.pr_auc / before.pr_auc, limits.pr_auc_loss, ".3%")
    yield _at_most("AUC lost to the reference", before.auc - after.auc, limits.auc_loss, ".5f")
    yield _at_most("shift of the mean probability", abs(accuracy.mean_shift), limits.mean_shift, ".3%")
    yield _at_most(
        "growth of the calibration error",
        after.calibration_error - before.calibration_error,
        limits.calibration_loss,
        ".4f",
    )
    yield _at_most("events that change their tier", accuracy.flipped, limits.flips, ".3%")
    yield _at_most("|dp|, 99th percentile", accuracy.p99_change, limits.p99_change, ".2g")
    yield _at_most("|dp|, largest", accuracy.max_change, limits.max_change, ".2g")
    yield _at_most("rows whose p falls along the horizons", accuracy.falling, limits.falling, ".3%")
    if accuracy.serving is not None:
        lost = 1 - after.pr_auc / accuracy.serving.pr_auc
        yield _at_most("PR-AUC lost to the serving model", lost, limits.model_loss, ".2%")


def _moves(limits: Limits, moves: Moves) -> Iterator[Check]:
    yield _at_most("|dp| in another slot", moves.slot, limits.moved, ".2g")
    for name, moved in moves.neighbours.items():
        yield _at_most(f"|dp| beside rows of {name}", moved, limits.moved, ".2g")
    yield _at_most("|dp| in a bucket with poison left behind", moves.padding, limits.moved, ".2g")
    yield _at_most("|dp| in another bucket", moves.bucket, limits.between_buckets, ".2g")


def _within_budget(limits: Limits, speed: Speed, gpu: bool) -> Check:
    small = [timing for timing in speed.timings if timing.size <= _BUDGETED] or speed.timings[:1]
    slowest = max(timing.p99_us for timing in small)
    limit = limits.p99_us_gpu if gpu else limits.p99_us
    return _at_most(f"p99 of a call up to {_BUDGETED} rows, us", slowest, limit, ".0f")


def _not_slower(limits: Limits, speed: Speed, serving: Speed) -> Check:
    ratios = ratio(speed, serving, lambda timing: timing.p99_us)
    if not ratios:
        return Check(
            name="p99 over the serving version's",
            found="not measured: it takes no batch of any size that this one has a bucket for",
            limit=f"at most {limits.slower:.2f}",
            passed=False,
        )
    size = max(ratios, key=lambda each: ratios[each])
    return _at_most(f"p99 over the serving version's, at {size} rows", ratios[size], limits.slower, ".2f")


def _faster(limits: Limits, speed: Speed, exact: Speed | None) -> Check:
    name = "time over the FP32 engine's"
    if exact is None:
        return Check(
            name=name,
            found="not measured: build the FP32 engine of this model beside it",
            limit=f"at most {limits.faster:.2f}",
            passed=False,
        )
    ratios = ratio(speed, exact, lambda timing: timing.p50_us)
    return _at_most(name, float(np.exp(np.mean(np.log(list(ratios.values()))))), limits.faster, ".3f")


def _at_most(name: str, found: float, limit: float, form: str) -> Check:
    passed = found <= limit  # a NaN passes nothing
    return Check(name=name, found=format(found, form), limit=f"at most {limit:{form}}", passed=bool(passed))
