"""Two score files made by hand, compared."""

from pathlib import Path

import pytest

from replay.diff import Compared, compare, page, text
from replay.outcomes import outcomes
from replay.recording import Recording, RecordingError
from tests.replay.made_scores import recording, scores

P = [i / 100 for i in range(100)]


def compared(tmp_path: Path, a: list[float], b: list[float], tips: list[int] | None = None, first: int = 0) -> Compared:
    left = scores(tmp_path / "a.parquet", a, latency_us=2_000)
    right = scores(tmp_path / "b.parquet", b, first=first)
    if tips is None:
        return compare(left, right, None)
    with Recording(recording(tmp_path / "r.parquet", tips)) as source:
        return compare(left, right, outcomes(left, source))


def test_equal_scores_have_no_difference(tmp_path: Path) -> None:
    found = compared(tmp_path, P, P)
    assert (found.events, found.only_a, found.only_b) == (100, 0, 0)
    assert found.quantiles == found.rank_moves == (0, 0, 0, 0)
    assert found.rank_correlation == pytest.approx(1)
    assert found.shared_head == 1
    assert found.moved == {("none", "none"): 50, ("high", "high"): 50}
    assert found.latency_ms == ((2, 2, 2, 2), None)
    assert found.judged is None


def test_what_moved_is_counted(tmp_path: Path) -> None:
    found = compared(tmp_path, P, [1 - p for p in P])
    assert found.quantiles[-1] == 1
    assert found.rank_correlation == pytest.approx(-1)
    assert found.shared_head == 0
    (flip,) = found.flips
    assert (flip.tier, flip.rose, flip.fell) == ("high", 50, 49)
    assert found.moved == {("none", "high"): 50, ("high", "high"): 1, ("high", "none"): 49}


def test_only_events_of_both_are_compared(tmp_path: Path) -> None:
    found = compared(tmp_path, P, P, first=30)
    assert (found.events, found.only_a, found.only_b) == (70, 30, 30)
    assert found.p_a.tolist() == P[30:]
    assert found.p_b.tolist() == P[:70]
    with pytest.raises(RecordingError, match="no event in common"):
        compared(tmp_path, P, P, first=500)


def test_the_outcome_says_which_one_is_right(tmp_path: Path) -> None:
    tips = list(range(70, 100, 2))
    found = compared(tmp_path, [1 - p for p in P], P, tips)
    assert found.judged is not None
    assert found.gain is not None
    a, b = found.judged
    assert a.tips == b.tips == 15
    assert a.pr_auc < b.pr_auc
    assert found.gain[0] == pytest.approx(b.pr_auc / a.pr_auc)
    assert "B ranks better" in text(found)
    html = page(found)
    assert html.count("<svg") == 4
    assert "latency of A, ms" in html
    assert not any(word in html for word in ("http:", "https:", "src=", "nan"))


def test_a_recording_that_covers_nothing_of_both_is_refused_in_words(tmp_path: Path) -> None:
    left, right = scores(tmp_path / "a.parquet", P), scores(tmp_path / "b.parquet", P, first=90)
    with (
        Recording(recording(tmp_path / "r.parquet", [1], until_s=650)) as source,
        pytest.raises(RecordingError, match="none of the events that are in both"),
    ):
        compare(left, right, outcomes(left, source))
