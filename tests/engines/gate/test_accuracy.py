"""The gate's figures against the same ones counted row by row, and faults that each must show in one of them."""

import numpy as np
import pytest

from engines.gate import accuracy
from engines.gate.checks import check
from engines.gate.limits import Limits
from engines.gate.verdict import Accuracy, Moves, Speed, Timing
from engines.model import Scores
from tests.engines.gate import made

STILL = Moves(slot=0.0, neighbours={}, padding=0.0, bucket=0.0)
FAST = Speed(name="this version", timings=(Timing(size=1, p50_us=1, p99_us=1, per_second=1),))


def judged(spoil: object = None, **options: Scores) -> Accuracy:
    sample, model = made.sample(), made.model()
    reference = accuracy.scores(model, sample)
    p = reference.p_tip if spoil is None else spoil(reference.p_tip)  # type: ignore[operator]
    return accuracy.judge(model.manifest, sample, reference, Scores(p.astype(np.float32), reference.value), **options)


def failed(found: Accuracy) -> set[str]:
    return {each.name for each in check(Limits(), found, STILL, FAST, gpu=False) if not each.passed}


def test_a_model_beside_itself_is_equal_in_everything() -> None:
    found = judged()
    assert found.candidate.pr_auc == found.reference.pr_auc
    assert {found.max_change, found.p99_change, found.flipped, found.mean_shift, found.value_change, found.falling} == {
        0
    }
    assert found.change_counts[0] == found.rows == 3_000
    assert failed(found) == set()


def test_figures_are_those_of_the_events_that_the_rows_stand_for() -> None:
    rng = np.random.default_rng(4)
    noise = rng.normal(0, 0.02, (3_000, 2))
    found = judged(lambda p: np.clip(p + noise, 0, 1))
    sample, model = made.sample(), made.model()
    before = accuracy.scores(model, sample).p_tip.astype(np.float64)
    after = np.clip(before + noise, 0, 1).astype(np.float32)
    rose = fell = flipped = total = 0.0
    for old, new, weight in zip(before[:, 1], after[:, 1], sample.weight, strict=True):
        total += weight
        rose += weight * (old < 0.1 <= new)
        fell += weight * (new < 0.1 <= old)
        flipped += weight * ((old < 0.1) != (new < 0.1))
    assert found.events == total
    assert found.flips[0].rose == pytest.approx(rose / total)
    assert found.flips[0].fell == pytest.approx(fell / total)
    assert found.flipped == pytest.approx(flipped / total)
    assert found.max_change == pytest.approx(np.abs(after - before).max(), rel=1e-5)
    assert found.p99_change == pytest.approx(np.percentile(np.abs(after - before), 99), rel=1e-4)
    assert sum(found.change_counts) == 3_000


def test_rounding_as_of_tf32_passes() -> None:
    assert failed(judged(lambda p: p * (1 + 1e-4 * np.sin(np.arange(p.size)).reshape(p.shape)))) == set()


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        (lambda p: p[::-1], {"PR-AUC lost to the reference", "AUC lost to the reference", "|dp|, largest"}),
        (lambda p: p * 1.02, {"shift of the mean probability", "|dp|, 99th percentile"}),
        (lambda p: np.where((p > 0.09) & (p < 0.1), 0.1, p), {"events that change their tier"}),
        (lambda p: p**1.3, {"growth of the calibration error", "|dp|, 99th percentile"}),
        (lambda p: np.where(np.arange(len(p))[:, None] == 5, 1.0, p), {"|dp|, largest"}),
        (lambda p: np.where(np.arange(len(p))[:, None] == 5, np.nan, p), {"|dp|, largest"}),
        (lambda p: p[:, ::-1], {"rows whose p falls along the horizons"}),
    ],
    ids=["shuffled", "high", "over a threshold", "overconfident", "an overflow", "no answer", "falling"],
)
def test_every_fault_fails_a_check(spoil: object, names: set[str]) -> None:
    assert names <= failed(judged(spoil))


def test_one_row_that_overflows_fails_that_check_alone() -> None:
    assert failed(judged(lambda p: np.where(np.arange(len(p))[:, None] == 5, p * 0.5 + 0.4, p))) == {"|dp|, largest"}


def test_a_new_model_is_held_against_the_one_that_serves() -> None:
    better = made.sample().tipped * 0.5 + 0.1
    serving = Scores(np.stack([better, better], axis=1).astype(np.float32), np.ones(3_000, np.float32))
    found = judged(None, serving=serving)
    assert found.serving is not None
    assert found.serving.pr_auc == 1.0
    assert failed(found) == {"PR-AUC lost to the serving model"}


def test_rows_that_the_model_cannot_answer_are_kept_as_they_are() -> None:
    sample = made.sample(600)
    spoilt = made.wrong(lambda batch, scores: Scores(np.where(batch[0][:, :1] > 3, np.nan, scores.p_tip), scores.value))
    found = accuracy.scores(spoilt, sample)
    np.testing.assert_array_equal(np.isnan(found.p_tip[:, 0]), sample.features[:, 0] > 3)
    assert np.isnan(found.p_tip).any()
