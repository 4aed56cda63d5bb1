"""Figures of scores whose outcome was made by hand."""

from pathlib import Path

import numpy as np
import pytest

from replay.outcomes import outcomes
from replay.recording import Recording, RecordingError
from replay.report import Judged, judge, page, pr_auc_resampled, text
from replay.scores import Scores
from tests.replay.made_scores import recording, scores


def judged(tmp_path: Path, p: list[float], tips: list[int], until_s: int = 10_000) -> tuple[Scores, Judged]:
    made = scores(tmp_path / "s.parquet", p)
    with Recording(recording(tmp_path / "r.parquet", tips, until_s=until_s)) as source:
        return made, judge(made, outcomes(made, source))


def test_the_best_scores_that_there_can_be(tmp_path: Path) -> None:
    p = [0.9 if i in (3, 40, 77) else 0.01 for i in range(100)]
    made, found = judged(tmp_path, p, [3, 40, 77])
    assert (found.events, found.tips, found.base_rate) == (100, 3, 0.03)
    assert found.auc == found.pr_auc == 1
    assert found.recall_at_1pct == pytest.approx(1 / 3)
    assert found.mean_over_base == pytest.approx((sum(p) / 2 / 3, sum(p) / 3))
    assert found.value_over_amount == pytest.approx((3 * 90 + 97 * 1) / 300)
    assert [(tier.name, tier.events, tier.tipped) for tier in found.tiers] == [("none", 97, 0), ("high", 3, 1)]
    assert "100 events, 3 followed by a tip within 600 s (3.000%)" in text(made, found)


def test_events_whose_horizon_the_recording_does_not_cover_are_left_out(tmp_path: Path) -> None:
    _, found = judged(tmp_path, [0.1] * 100, [3, 40, 77], until_s=650)
    assert (found.events, found.tips) == (51, 2)
    with pytest.raises(RecordingError, match="give the recording that was scored"):
        judged(tmp_path, [0.1] * 100, [3], until_s=300)


def test_without_tips_nothing_is_claimed(tmp_path: Path) -> None:
    made, found = judged(tmp_path, [0.1, 0.2, 0.3], [])
    assert np.isnan([found.auc, found.pr_auc, *found.pr_interval, found.mean_over_base[-1]]).all()
    assert "nan" in text(made, found)
    assert "<svg" in page(made, found)


def test_a_page_stands_alone(tmp_path: Path) -> None:
    made, found = judged(tmp_path, [i / 100 for i in range(100)], [3, 40, 77])
    html = page(made, found)
    assert html.count("<svg") == html.count("</svg>") == 2
    assert "hand:1 on hand.parquet" in html
    assert not any(word in html for word in ("http:", "https:", "src=", "@import", "nan"))


def test_resampled_rooms_spread_around_the_whole() -> None:
    rng = np.random.default_rng(0)
    rooms, p = np.repeat(np.arange(200), 20), rng.random(4_000)
    y = rng.random(4_000) < p / 20
    drawn = pr_auc_resampled(y, p, rooms)
    np.testing.assert_array_equal(drawn, pr_auc_resampled(y, p, rooms))
    assert drawn.min() < pr_auc_resampled(y, p, np.zeros(4_000))[0] < drawn.max()
