"""What counts as a tip that followed."""

from typing import Any

import pytest

from features.events import Event
from scorer.tips import Label, Tips

NOTHING = Label((False, False), 0)


def gift(time_s: float, amount: int, tx: str = "t1", **fields: Any) -> Event:
    fields = {"room_id": "r", "viewer_id": "v", "coin_type": "paid"} | fields
    room = fields.pop("room_id")
    return Event(f"e{tx}{time_s}", "gift", int(time_s * 1000), room, "s", gift_tx_id=tx, amount_minor=amount, **fields)


def reversal(time_s: float, tx: str, room: str = "r") -> Event:
    return Event(f"r{tx}", "gift_reversal", int(time_s * 1000), room, "s", viewer_id="v", gift_tx_id=tx)


def labelled(*events: Event, at_s: float = 100) -> Label:
    return seen(*events).label(("v", "r"), int(at_s * 1000), (60, 600))


def seen(*events: Event) -> Tips:
    tips = Tips()
    for event in events:
        tips.see(event)
    return tips


@pytest.mark.parametrize(
    ("time_s", "label"),
    [
        (99.999, NOTHING),
        (100, NOTHING),  # the trigger itself, and whatever shares its time
        (100.001, Label((True, True), 5)),
        (160, Label((True, True), 5)),
        (160.001, Label((False, True), 5)),
        (700, Label((False, True), 5)),
        (700.001, NOTHING),
    ],
)
def test_a_horizon_begins_after_the_trigger_and_holds_its_end(time_s: float, label: Label) -> None:
    assert labelled(gift(time_s, 5)) == label


@pytest.mark.parametrize(
    "fields", [{"room_id": "other"}, {"viewer_id": "other"}, {"coin_type": "free"}, {"coin_type": "bag"}]
)
def test_other_rooms_viewers_and_free_coins_do_not_count(fields: dict[str, str]) -> None:
    assert labelled(gift(101, 5, **fields)) == NOTHING


def test_amounts_add_up_within_the_longest_horizon() -> None:
    chat = Event("c", "paid_chat", 300_000, "r", "s", viewer_id="v", amount_minor=70)
    assert labelled(gift(110, 5), gift(400, 20, "t2"), chat, gift(800, 1000, "t3")) == Label((True, True), 95)


def test_a_combo_is_one_tip_when_it_began_with_its_last_total() -> None:
    frames = [gift(time, 10 * n, "t1", combo_id="c") for n, time in enumerate((101, 102, 103), 1)]
    assert labelled(*frames) == Label((True, True), 30)
    assert labelled(*frames, at_s=101) == NOTHING


def test_a_combo_whose_frames_arrive_out_of_order_is_the_same() -> None:
    frames = [gift(time, 10 * n, f"t{n}", combo_id="c") for n, time in enumerate((101, 102, 103), 1)]
    assert labelled(frames[2], frames[0], frames[1]) == Label((True, True), 30)


def test_a_repeated_gift_counts_once() -> None:
    assert labelled(gift(101, 5), gift(101, 5)) == Label((True, True), 5)


def test_a_reversed_tip_never_was() -> None:
    assert labelled(gift(101, 5), gift(200, 7, "t2"), reversal(210, "t1")) == Label((False, True), 7)


def test_a_reversal_may_come_from_another_room_and_before_a_repeat_of_the_gift() -> None:
    assert labelled(gift(101, 5), reversal(210, "t1", "later"), gift(101, 5)) == NOTHING


def test_a_reversal_of_what_was_never_seen_changes_nothing() -> None:
    assert labelled(reversal(50, "t1"), gift(101, 5)) == Label((True, True), 5)


def test_all_tips_are_those_that_were_not_reversed() -> None:
    tips = seen(gift(101, 5), gift(200, 7, "t2"), gift(300, 9, "t3", room_id="other"), reversal(310, "t2"))
    assert [(tip.visit, tip.time_ms, tip.amount_minor) for tip in tips.all()] == [
        (("v", "r"), 101_000, 5),
        (("v", "other"), 300_000, 9),
    ]
