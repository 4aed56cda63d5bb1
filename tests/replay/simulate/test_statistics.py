"""The moments of simulated traffic against the published figures that `behaviour` names."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from replay.simulate import Traffic, behaviour
from replay.simulate.population import Population, zipf
from tests.replay.simulate.seen import HOUR, Seen, look

pytestmark = pytest.mark.timeout(180)  # an hour of traffic is simulated once, for all of them


@pytest.fixture(scope="module")
def hour() -> Seen:
    return look(HOUR)


def test_rate_is_what_was_asked_for(hour: Seen) -> None:
    assert hour.records / HOUR.duration_s == pytest.approx(HOUR.rate, rel=0.25)


def test_shares_of_late_and_repeated_events(hour: Seen) -> None:
    assert hour.duplicates / hour.records == pytest.approx(HOUR.duplicate_share, rel=0.1)
    assert hour.late / hour.records == pytest.approx(HOUR.late_share, rel=0.1)


def test_views_are_as_short_and_as_long_as_published(hour: Seen) -> None:
    assert np.median(hour.views_s) == pytest.approx(4.9, rel=0.15)
    assert np.mean(hour.views_s > 10) == pytest.approx(0.39, abs=0.03)
    assert np.mean(hour.views_s > 100) == pytest.approx(0.19, abs=0.03)
    assert np.quantile(hour.views_s, 0.9) == pytest.approx(1_026, rel=0.35)  # broadcasts end under some


def test_curve_of_views_has_the_published_mean() -> None:
    lengths = behaviour.view_s((np.arange(100_000) + 0.5) / 100_000)
    assert lengths.mean() == pytest.approx(behaviour.MEAN_VIEW_S, rel=0.02)
    assert np.quantile(lengths, 0.99) == pytest.approx(9_231, rel=0.01)
    middle = np.array([100.0])
    assert behaviour.still_watching(middle)[0] == pytest.approx(np.mean(lengths > 100), abs=0.001)


def test_comments_come_as_far_apart_as_measured(hour: Seen) -> None:
    assert np.median(hour.comment_gaps_s) == pytest.approx(69, rel=0.25)


def test_prices_follow_the_ladder(hour: Seen) -> None:
    assert np.median(hour.prices) <= 5
    assert np.mean(hour.prices == 1) == pytest.approx(0.44, abs=0.1)
    assert np.mean(hour.prices <= 10) == pytest.approx(0.76, abs=0.1)
    assert 60 <= np.quantile(hour.prices, 0.9) <= 300
    assert hour.prices.mean() == pytest.approx(83, rel=0.9)  # the tail makes it


def test_few_viewers_spend_most(hour: Seen) -> None:
    spend = np.sort(hour.spend)
    assert spend[-len(spend) // 10 :].sum() / spend.sum() == pytest.approx(0.8, abs=0.15)  # 71 % and 93 % published
    assert gini(spend) == pytest.approx(0.87, abs=0.1)  # 0.795 and 0.942 published


def test_tips_excite_the_room(hour: Seen) -> None:
    for horizon_s, published in ((30, 7.7), (60, 7.5), (300, 5.8)):
        assert excitement(hour, horizon_s) == pytest.approx(published, rel=0.45)


def test_truth_is_calibrated_and_monotone_in_the_horizon(hour: Seen) -> None:
    assert (hour.chance[:, 0] <= hour.chance[:, 1]).all()
    for column in range(2):
        p, y = hour.chance[:, column], hour.came_true[:, column]
        assert p.mean() == pytest.approx(y.mean(), rel=0.3)
        edges = np.quantile(p, [0, 0.9, 0.99, 1])
        for low, high in itertools.pairwise(edges):
            inside = (p >= low) & (p <= high)
            assert p[inside].mean() == pytest.approx(y[inside].mean(), rel=0.6)


def test_truth_ranks_far_above_chance(hour: Seen) -> None:
    """There is something to learn."""
    for column, least in ((0, 0.90), (1, 0.85)):
        p, y = hour.chance[:, column], hour.came_true[:, column]
        rank = np.argsort(np.argsort(p))
        auc = (rank[y].mean() - (y.sum() - 1) / 2) / (~y).sum()
        assert least < auc < 0.995


def test_popularity_is_zipf() -> None:
    drawn = zipf(np.random.default_rng(0).random(200_000), 1_000, 0.9)
    share = np.bincount(drawn, minlength=1_000) / len(drawn)
    expected = np.arange(1, 1_001) ** -0.9
    assert np.argmax(share) == 0
    assert share[:10].sum() == pytest.approx((expected / expected.sum())[:10].sum(), rel=0.2)


def test_means_of_viewers_are_pareto() -> None:
    people = Population(Traffic(viewers=200_000), np.random.default_rng(0))
    assert 1.0 < hill(people.spender, 20_000) < 1.6  # published 1.1-1.35, with a cap above


def test_evening_is_ten_times_the_night() -> None:
    hours = np.arange(24) * 3_600_000.0
    curve = behaviour.daily(hours, 10)
    assert curve.max() / curve.min() == pytest.approx(10)
    assert int(np.argmax(curve)) == 20


def gini(values: NDArray[np.int64]) -> float:
    values = np.sort(values)
    return float(1 - 2 * np.sum((np.cumsum(values) - values / 2) / values.sum()) / len(values))


def hill(values: NDArray[np.float32], k: int) -> float:
    top = np.sort(values)[::-1][: k + 1]
    return float(1 / np.mean(np.log(top[:-1] / top[-1])))


def excitement(seen: Seen, horizon_s: int) -> float:
    """Tips in the time after a tip, over those in any such time."""
    last_ms = HOUR.start_ms + 1000 * (HOUR.duration_s - horizon_s)
    after = [
        np.sum((times > t) & (times <= t + 1000 * horizon_s))
        for times in seen.tips.values()
        for t in times[times < last_ms]
    ]
    usual = sum(map(len, seen.tips.values())) / (HOUR.streamers * behaviour.LIVE_SHARE) / HOUR.duration_s * horizon_s
    return float(np.mean(after)) / usual
