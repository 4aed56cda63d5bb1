"""What the features mean, one rule a test, in numbers that a reader can check."""

from __future__ import annotations

from typing import Any

import pytest

from features.catalogue import FEATURES, NEVER
from features.events import Event
from features.kernel import CLAMPED, COLD_START, LATE, UNMATCHED
from tests.features.harness import Lines, Record, Rows, engine_of, run_batch
from tests.features.oracle import lg

COLUMN = {feature.name: column for column, feature in enumerate(FEATURES)}
NOON = 1_700_006_400_000 - 1_700_006_400_000 % 86_400_000 + 12 * 3_600_000  # a day's middle: no bucket ends near it
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000


class Story:
    """Events of one viewer, told by their time after noon."""

    def __init__(self) -> None:
        self.engine, self.rows, self.number = engine_of(1), Rows(), 0

    def tell(self, kind: str, at: int = 0, *, broker: int | None = None, **fields: Any) -> Told:
        self.number += 1
        base = {"event_id": f"event-{self.number}", "room_id": "room", "streamer_id": "streamer", "viewer_id": "viewer"}
        event = Event(type=kind, event_time_ms=NOON + at, **base | fields)
        return Told(run_batch(self.engine, self.rows, [Record(event, 0, NOON + (at if broker is None else broker))]))

    def forget_rooms(self) -> None:
        """Start over with what is stored, but for rooms, which expire after days without an event."""
        self.engine = engine_of(1)
        self.rows.rooms.clear()

    def gift(self, at: int = 0, *, minor: int, tx: str, **fields: Any) -> Told:
        return self.tell("gift", at, **{"amount_minor": minor, "gift_tx_id": tx, "coin_type": "paid", **fields})


class Told:
    """What the engine said about one event."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.flags = int(lines.flags[0])

    def __getitem__(self, name: str) -> float:
        return float(self.lines.features[0, COLUMN[name]])

    def counts(self, **expected: int) -> None:
        """Check features that are counts or amounts."""
        assert {name: self[name] for name in expected} == {name: pytest.approx(lg(n)) for name, n in expected.items()}


def test_windows_count_whole_buckets() -> None:
    story = Story()
    story.tell("comment", 9_999)
    story.tell("comment", 10_000).counts(viewer_10s_comments=1, viewer_1m_comments=2, room_1m_comments=2)
    story.tell("heartbeat", 59_999).counts(viewer_10s_comments=0, viewer_1m_comments=2, viewer_5m_comments=2)
    story.tell("heartbeat", 60_000).counts(viewer_1m_comments=1, viewer_5m_comments=2, viewer_1h_comments=2)
    story.tell("heartbeat", 6 * MINUTE).counts(viewer_5m_comments=0, viewer_1h_comments=2)
    story.tell("heartbeat", 2 * HOUR).counts(viewer_1h_comments=0, viewer_24h_events=6, viewer_total_comments=2)


def test_long_windows_reach_sixty_days() -> None:
    story = Story()
    story.gift(minor=500, tx="t1")
    story.tell("enter", 6 * DAY).counts(viewer_7d_tips=1, viewer_7d_minor=500, viewer_24h_minor=0, pair_7d_minor=500)
    story.tell("enter", 54 * DAY).counts(viewer_7d_tips=0, viewer_60d_minor=500, pair_60d_tips=1)
    story.tell("enter", 70 * DAY).counts(viewer_60d_minor=0, pair_60d_tips=0, viewer_total_minor=500, pair_total_tips=1)


def test_a_late_event_lands_in_its_own_bucket_while_there_is_one() -> None:
    story = Story()
    story.tell("heartbeat", 100 * SECOND)
    late = story.tell("comment", 35 * SECOND)
    late.counts(viewer_10s_comments=0, viewer_1m_comments=0, viewer_5m_comments=1)
    assert late.flags & LATE
    assert not story.tell("comment", 95 * SECOND).flags & LATE
    story.tell("heartbeat", 40 * DAY)
    story.tell("comment", 0).counts(viewer_total_comments=3, viewer_1h_comments=0)


def test_a_stamp_from_the_future_is_brought_back() -> None:
    story = Story()
    ahead = story.tell("comment", 5 * DAY, broker=0)
    assert ahead.flags == CLAMPED | COLD_START
    assert story.tell("comment", 3_000, broker=3_000)["viewer_age_events"] == pytest.approx(lg(1_000))
    assert story.tell("comment", 9_000, broker=7_000).flags == 0


def test_a_combo_is_one_tip_that_grows() -> None:
    story = Story()
    story.gift(0, minor=100, tx="t1", combo_id="c1", count=1).counts(viewer_5m_tips=1, viewer_5m_minor=100)
    story.gift(2_000, minor=300, tx="t2", combo_id="c1", count=3).counts(viewer_5m_tips=1, viewer_5m_minor=300)
    story.gift(3_000, minor=200, tx="t3", combo_id="c1", count=2).counts(pair_visit_minor=300, room_5m_minor=300)
    story.gift(4_000, minor=50, tx="t4").counts(viewer_5m_tips=2, viewer_5m_minor=350, pair_total_minor=350)


def test_a_combo_stays_in_its_room() -> None:
    story = Story()
    story.gift(0, minor=100, tx="t1", combo_id="c1")
    story.gift(1_000, minor=300, tx="t2", combo_id="c1", room_id="room-2").counts(viewer_5m_tips=2, viewer_5m_minor=400)
    story.tell("gift_reversal", 2_000, gift_tx_id="t1").counts(room_total_minor=0, viewer_total_minor=300)


def test_one_transaction_is_one_gift() -> None:
    story = Story()
    story.gift(minor=100, tx="t1")
    story.gift(1_000, minor=100, tx="t1").counts(viewer_total_tips=1, viewer_total_minor=100, viewer_total_events=2)


def test_a_reversal_takes_the_gift_back_everywhere() -> None:
    story = Story()
    story.gift(minor=100, tx="t1")
    story.gift(1_000, minor=700, tx="t2")
    back = story.tell("gift_reversal", 2_000, gift_tx_id="t2")
    back.counts(viewer_5m_tips=1, viewer_60d_minor=100, pair_total_minor=100, pair_visit_tips=1, room_total_minor=100)
    assert not back.flags & UNMATCHED
    assert story.tell("gift_reversal", 3_000, gift_tx_id="t2").flags & UNMATCHED
    assert back["viewer_visits_tipped_share"] == 1
    assert story.tell("gift_reversal", 4_000, gift_tx_id="t1")["viewer_visits_tipped_share"] == 0
    story.tell("comment", 5_000).counts(viewer_total_tips=0, pair_total_minor=0, room_5m_tips=0)


def test_a_reversal_told_in_another_room_leaves_that_room_alone() -> None:
    story = Story()
    story.gift(minor=100, tx="t1")
    story.tell("comment", 1_000, room_id="room-2")
    back = story.tell("gift_reversal", 2_000, gift_tx_id="t1", room_id="room-2")
    back.counts(viewer_total_minor=0, pair_total_tips=0, room_total_minor=0, pair_visit_tips=0, viewer_visits_tipped=1)


def test_a_reversal_of_an_unknown_gift_changes_nothing() -> None:
    story = Story()
    story.tell("comment")
    before = dict(story.rows.viewers[0, "viewer"]), dict(story.rows.rooms)
    assert story.tell("gift_reversal", 1_000, gift_tx_id="t9").flags == UNMATCHED
    assert (story.rows.viewers[0, "viewer"], story.rows.rooms) == before


def test_free_coins_are_no_tips() -> None:
    story = Story()
    for coin in ("free", "bag"):
        told = story.gift(minor=100, tx=f"t-{coin}", coin_type=coin)
        told.counts(viewer_total_tips=0, viewer_total_minor=0)
        assert (told["event_is_tip"], told["event_is_free_gift"]) == (0, 1)
    story.gift(1_000, minor=100, tx="t3", coin_type="free", combo_id="c1").counts(viewer_5m_free=3)
    story.gift(2_000, minor=200, tx="t4", coin_type="free", combo_id="c1").counts(viewer_5m_free=3)


def test_a_visit_restarts_with_the_room() -> None:
    story = Story()
    story.gift(minor=100, tx="t1")
    story.tell("comment", 60_000).counts(pair_visit_events=2, pair_visit_minor=100, pair_total_visits=1)
    told = story.tell("comment", 2 * HOUR, room_id="room-2")
    told.counts(pair_visit_events=1, pair_visit_minor=0, pair_total_visits=2, pair_visits_tipped=1, room_1h_newcomers=0)
    assert told["pair_visits_tipped_share"] == 0.5
    assert told["pair_visit_age_start"] == 0
    assert told["pair_visit_age_tip"] == NEVER
    assert told["pair_age_tips"] == pytest.approx(lg(2 * HOUR))


def test_recent_visits_with_a_tip_weigh_more_than_earlier_ones() -> None:
    story = Story()
    story.gift(minor=100, tx="t1")
    story.gift(1_000, minor=100, tx="t2").counts(pair_visits_since_tip=0, viewer_visits_since_tip=0)
    told = story.tell("comment", HOUR, room_id="room-2")
    told.counts(pair_visits_since_tip=1, viewer_visits_since_tip=1)
    assert told["pair_visits_tipped_recent4"] == pytest.approx(0.75 / 1.75)
    assert told["viewer_visits_tipped_recent12"] == pytest.approx((11 / 12) / (23 / 12))
    assert told["pair_tips_per_visit_tipped"] == 2
    told = story.gift(2 * HOUR, minor=100, tx="t3", room_id="room-2")
    assert (told["pair_visits_tipped_recent4"], told["viewer_tips_per_visit_tipped"]) == (1, 1.5)


def test_only_so_many_visits_are_remembered() -> None:
    story = Story()
    story.gift(minor=100, tx="t1")
    for visit in range(1, 64):
        told = story.tell("comment", visit * MINUTE, room_id=f"room-{visit}")
    told.counts(pair_visits_since_tip=63)
    told = story.tell("comment", HOUR + 4 * MINUTE, room_id="room-64")
    told.counts(pair_visits_since_tip=64, viewer_visits_since_tip=64)
    assert told["pair_visits_tipped_recent12"] == 0
    assert told["pair_visits_tipped_share"] > 0


def test_a_tip_counts_for_the_visit_in_which_it_was_given() -> None:
    story = Story()
    story.tell("comment")
    story.tell("comment", 1_000, room_id="other-room", streamer_id="other")
    told = story.gift(2_000, minor=100, tx="t1")
    told.counts(pair_visits_since_tip=0, viewer_visits_since_tip=1)
    assert told["viewer_visits_tipped_recent4"] == pytest.approx(0.75 / 1.75)
    back = story.tell("gift_reversal", 3_000, gift_tx_id="t1")
    back.counts(pair_visits_since_tip=64, viewer_visits_since_tip=64)


def test_newcomers_are_new_to_the_streamer_not_to_the_room() -> None:
    story = Story()
    story.tell("enter").counts(room_5m_newcomers=1, room_5m_visits=1, viewer_streamers=1)
    story.tell("enter", 1_000, viewer_id="viewer-2").counts(room_5m_newcomers=2, room_5m_visits=2)
    story.tell("enter", 2_000, room_id="room-2").counts(room_5m_newcomers=0, room_5m_visits=1, viewer_streamers=1)
    story.tell("enter", 3_000, streamer_id="other", room_id="room-3").counts(room_5m_newcomers=1, viewer_streamers=2)


def test_room_events_say_what_is_and_count_nothing() -> None:
    story = Story()
    for _ in range(2):  # a repeat is harmless
        story.tell("room_start", 0, viewer_id=None)
        story.tell("raid", 30_000, viewer_id=None, viewers=250)
        story.tell("room_stats", 40_000, viewer_id=None, online=900)
    story.tell("room_stats", 20_000, viewer_id=None, online=5)
    story.tell("raid", 10_000, viewer_id=None, viewers=3)
    told = story.tell("enter", 60_000)
    told.counts(room_raid_size=250, room_online=900, room_5m_events=1)
    assert told["room_age_first"] == pytest.approx(lg(60_000))
    assert told["room_age_raid"] == pytest.approx(lg(30_000))
    assert told["room_age_tip"] == NEVER


def test_the_history_is_newest_first() -> None:
    story = Story()
    story.tell("comment", 0, text_len=7, streamer_id="other", room_id="room-3")
    story.tell("heartbeat", 1_000)
    history = story.gift(5_000, minor=100, tx="t1", room_id="room-2").lines.history[0]

    gift = [12, 0, lg(4_000), lg(100), lg(1), 1, 1, 1]
    heartbeat = [3, lg(4_000), lg(1_000), 0, lg(1), 0, 0, 1]
    comment = [4, lg(5_000), NEVER, 0, lg(7), 0, 0, 0]
    assert history[:3].tolist() == [pytest.approx(line) for line in (gift, heartbeat, comment)]
    assert not history[3:].any()


def test_a_reversal_takes_nothing_from_a_room_whose_row_has_expired() -> None:
    story = Story()
    story.gift(minor=500, tx="one")
    story.forget_rooms()
    told = story.tell("gift_reversal", 3 * DAY, gift_tx_id="one")
    told.counts(room_total_tips=0, room_total_minor=0, viewer_total_tips=0)
    story.tell("comment", 3 * DAY + SECOND).counts(room_total_tips=0, room_total_minor=0)


def test_a_record_stamped_at_the_end_of_time_is_taken_at_its_events_own() -> None:
    story = Story()
    told = story.tell("comment", broker=2**63 - 1 - NOON)
    assert told.flags & CLAMPED == 0
    story.tell("comment", SECOND).counts(room_total_tips=0, viewer_1m_comments=2)


def test_a_bucket_counts_no_further_than_it_can() -> None:
    story = Story()
    for _ in range(25):
        told = story.tell("like", count=100_000_000)
    told.counts(viewer_1m_social=2**31 - 1)
