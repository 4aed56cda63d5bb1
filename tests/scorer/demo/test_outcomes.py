"""Scores meet the tips that followed them, in event time."""

from __future__ import annotations

import pytest

from features.events import Event
from scorer.contracts import Score
from scorer.demo.outcomes import Outcomes
from tests.scorer.demo.made import event, gift, score

LATER = event("comment", 2_000, viewer="somebody")


def judged(scores: list[Score], events: list[Event]) -> Outcomes:
    outcomes = Outcomes()
    outcomes.see_scores(scores)
    outcomes.see_events([*events, LATER])
    outcomes.judge()
    return outcomes


@pytest.mark.parametrize(
    ("tip", "followed"),
    [
        (gift(0, "t"), 0),  # the trigger itself is no answer
        (gift(0.001, "t"), 1),
        (gift(600, "t"), 1),
        (gift(600.001, "t"), 0),
        (gift(10, "t", viewer="v2"), 0),
        (gift(10, "t", room="r2"), 0),
        (gift(10, "t", coin_type="free"), 0),
        (event("paid_chat", 10, amount_minor=100), 1),
        (event("subscribe", 10, amount_minor=100), 0),
    ],
)
def test_what_counts_as_a_tip_that_followed(tip: Event, followed: int) -> None:
    assert judged([score(0)], [tip]).tiers["high"].followed == followed


def test_nothing_is_judged_before_its_time() -> None:
    outcomes = Outcomes()
    outcomes.see_scores([score(0)])
    assert outcomes.due_s() is not None
    outcomes.see_events([event("comment", 600)])
    outcomes.judge()
    assert outcomes.all.scores == 0
    assert outcomes.due_s() == 60  # a tip may still be on its way
    outcomes.see_events([gift(10, "t"), event("comment", 660)])
    outcomes.judge()
    assert (outcomes.all.scores, outcomes.all.followed) == (1, 1)
    assert outcomes.due_s() is None


def test_a_combo_is_one_tip_when_it_began() -> None:
    gifts = [gift(10, "t2", combo_id="c"), gift(5, "t1", combo_id="c")]  # the first one arrives last
    outcomes = judged([score(0), score(7)], gifts)
    assert outcomes.tips == 1
    assert outcomes.tiers["high"].followed == 1


def test_a_reversed_gift_is_no_tip() -> None:
    outcomes = judged([score(0)], [gift(10, "t"), event("gift_reversal", 20, gift_tx_id="t")])
    assert outcomes.tips == 0
    assert outcomes.tiers["high"].followed == 0
    judged([score(0)], [event("gift_reversal", 20, gift_tx_id="never seen")])


def test_calibration_and_lift_by_tier() -> None:
    scores = [score(0, 0.4, "v1"), score(0, 0.2, "v2"), *(score(0, 0.01, "v3", tier="low") for _ in range(6))]
    outcomes = judged(scores, [gift(10, "t", viewer="v1")])
    high, low = outcomes.tiers["high"], outcomes.tiers["low"]
    assert high.predicted_share == pytest.approx(0.3)
    assert (high.followed_share, low.followed_share) == (0.5, 0.0)
    assert outcomes.all.scores == 8
    assert outcomes.lift("high") == pytest.approx(4.0)
    assert outcomes.lift("low") == 0.0


def test_no_lift_without_tips() -> None:
    outcomes = judged([score(0)], [])
    assert outcomes.lift("high") is None
    assert outcomes.all.predicted_share == pytest.approx(0.1)


def test_tips_by_room_are_recent_ones() -> None:
    outcomes = Outcomes()
    outcomes.see_events([gift(0, "a"), gift(500, "b"), gift(550, "c", room="r2"), gift(900, "d")])
    assert outcomes.tips_by_room(600) == {"r1": 2, "r2": 1}
