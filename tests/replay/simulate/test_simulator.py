"""The traffic is the contract's, in order, and the same for the same settings."""

from collections import defaultdict

import numpy as np
import pytest

from features.events import EVENT_TYPES, ROOM_LEVEL, Event, decode, encode
from replay.simulate import Traffic, TrafficError, simulate
from replay.simulate.recorded import CHANCE_HEADER, records

BUSY = Traffic(seed=5, rate=120, duration_s=1_800, rooms=150, tips=20, late_share=0.05, duplicate_share=0.02)


@pytest.fixture(scope="module")
def traffic() -> list[tuple[int, Event]]:
    return [
        (arrive_ms, event)
        for moment in simulate(BUSY)
        for arrive_ms, event in zip(moment.arrive_ms.tolist(), moment.events, strict=True)
    ]


def test_same_settings_same_bytes() -> None:
    few = Traffic(seed=7, rate=80, duration_s=120, truth=True)
    first, second = ([record for moment in simulate(few) for record in records(moment, few)] for _ in range(2))
    assert first == second
    other = Traffic(seed=8, rate=80, duration_s=120, truth=True)
    assert first != [record for moment in simulate(other) for record in records(moment, other)]


def test_every_event_is_the_contracts_and_every_type_but_erase_occurs(traffic: list[tuple[int, Event]]) -> None:
    events = [event for _, event in traffic]
    decoded = decode([encode(event) for event in events], [(event.viewer_id or "").encode() for event in events])
    assert decoded.events == events
    assert {event.type for event in events} == set(EVENT_TYPES) - {"erase"}
    assert all((event.viewer_id is None) == (event.type in ROOM_LEVEL) for event in events)


def test_arrival_is_in_order_and_never_before_the_event(traffic: list[tuple[int, Event]]) -> None:
    arrivals = np.array([arrive_ms for arrive_ms, _ in traffic])
    happened = np.array([event.event_time_ms for _, event in traffic])
    assert (np.diff(arrivals) >= 0).all()
    assert (arrivals >= happened).all()
    assert arrivals[-1] < BUSY.start_ms + BUSY.duration_s * 1000
    assert 0.02 < np.mean(arrivals > happened) < 0.08
    assert (arrivals - happened).max() < 700_000


def test_duplicates_repeat_an_event_wholly(traffic: list[tuple[int, Event]]) -> None:
    by_id: dict[str, list[Event]] = defaultdict(list)
    for _, event in traffic:
        by_id[event.event_id].append(event)
    repeated = [events for events in by_id.values() if len(events) > 1]
    assert len(repeated) / len(by_id) == pytest.approx(BUSY.duplicate_share, rel=0.2)
    assert all(first == second for first, second in repeated)


def test_combos_grow_and_end(traffic: list[tuple[int, Event]]) -> None:
    combos: dict[str, dict[str, Event]] = defaultdict(dict)
    for _, event in traffic:
        if event.combo_id is not None:
            combos[event.combo_id][event.event_id] = event
    whole = 0
    for frames in combos.values():
        in_time = sorted(frames.values(), key=lambda event: event.event_time_ms)
        counts = [event.count or 0 for event in in_time]
        assert counts == sorted(set(counts))
        assert len({(event.viewer_id, event.room_id, event.gift_tx_id, event.unit_price) for event in in_time}) == 1
        assert [event.combo_end for event in in_time[:-1]] == [False] * (len(in_time) - 1)
        whole += bool(in_time[-1].combo_end)
    assert whole > 20


def test_money_adds_up_and_gifts_are_told_apart(traffic: list[tuple[int, Event]]) -> None:
    gifts = [event for _, event in traffic if event.type == "gift"]
    assert all(event.amount_minor == (event.unit_price or 0) * (event.count or 0) for event in gifts)
    assert {event.coin_type for event in gifts} == {"paid", "free", "bag"}
    given = {event.gift_tx_id for event in gifts}
    returned = [event.gift_tx_id for _, event in traffic if event.type == "gift_reversal"]
    assert returned
    assert set(returned) <= given


def test_viewers_are_in_one_room_at_a_time(traffic: list[tuple[int, Event]]) -> None:
    visits: dict[str | None, set[str | None]] = defaultdict(set)
    for _, event in traffic:
        if event.type in ("enter", "leave"):
            visits[event.session_id].add(event.viewer_id)
    assert all(len(viewers) == 1 for viewers in visits.values())


def test_a_raid_brings_its_viewers(traffic: list[tuple[int, Event]]) -> None:
    raids = {event.event_id: event for _, event in traffic if event.type == "raid"}
    came = {event.event_id: event.room_id for _, event in traffic if event.type == "enter" and event.source == "raid"}
    assert raids
    assert set(came.values()) <= {event.room_id for event in raids.values()}
    assert 0 < len(came) <= sum(event.viewers or 0 for event in raids.values())


def test_records_are_keyed_by_viewer_or_room_and_tell_the_chance_if_asked() -> None:
    traffic = Traffic(rate=80, duration_s=60, truth=True)
    made = [record for moment in simulate(traffic) for record in records(moment, traffic)]
    decoded = decode([record.value for record in made], [record.key for record in made])
    assert not decoded.rejects
    for record, event in zip(made, decoded.events, strict=True):
        assert record.key == (event.viewer_id or event.room_id).encode()
        assert record.event_time_ms == event.event_time_ms
        assert [name for name, _ in record.headers or ()] == ([CHANCE_HEADER] if event.viewer_id else [])
    assert not any(record.headers for record in records(next(iter(simulate(Traffic(rate=80)))), Traffic(rate=80)))


def test_without_truth_nothing_is_told() -> None:
    moment = next(iter(simulate(Traffic(rate=200, duration_s=1))))
    assert np.isnan(moment.chance).all()


def test_nobody_needs_to_be_there() -> None:
    """One streamer, a hundred viewers, and nights without anybody."""
    assert sum(len(moment.events) for moment in simulate(Traffic(rate=1, rooms=1, viewers=100, duration_s=600))) > 0


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"rate": 0}, "rate"),
        ({"late_share": 0.9}, "late_share"),
        ({"viewers": -1}, "viewers"),
        ({"diurnal": 0.5}, "diurnal"),
        ({"heartbeat_s": 1}, "heartbeat_s"),
        ({"rate": 1e9}, "Lower the rate"),
    ],
)
def test_impossible_settings_are_refused_in_words(settings: dict[str, float], word: str) -> None:
    with pytest.raises(TrafficError, match=word):
        Traffic(**settings)  # type: ignore[arg-type]
