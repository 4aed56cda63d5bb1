"""A room over several partitions: each keeps its own share, and adds what the others last published."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.catalogue import FEATURES
from features.engine import FeatureEngine
from features.events import Event
from tests.features.harness import Lines, Record, Rows, assert_same, engine_of, join, run_batch, take
from tests.features.ledger import Room
from tests.features.oracle import Line, Oracle, lg
from tests.features.traffic import START, streams


def comment(number: int, partition: int, *, room: str = "room", at: int = 0) -> Record:
    event = Event(
        f"event-{number}", "comment", START + at, room, "streamer", viewer_id=f"viewer-{partition}", text_len=9
    )
    return Record(event, partition, event.event_time_ms)


def exchange(engines: Sequence[FeatureEngine], published: dict[str, dict[int, bytes]], partitions: int) -> None:
    """Publish every changed share and let every engine read the others' shares of all rooms."""
    for engine in engines:
        for partition, rooms in engine.take_dirty_shares().items():
            for room, share in rooms.items():
                published.setdefault(room, {})[partition] = share
    for engine in engines:
        known: dict[tuple[int, str], list[bytes]] = {}
        for partition in range(partitions):
            for room, shares in published.items():
                known[partition, room] = [blob for p, blob in shares.items() if p != partition]
        engine.set_other_shares(known)


def stack(lines: list[Line]) -> Lines:
    return Lines(
        np.array([line.features for line in lines]),
        np.array([line.history for line in lines]),
        np.array([line.status for line in lines], np.uint8),
        np.array([line.flags for line in lines], np.uint8),
    )


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(streams(partitions=3), st.data())
def test_rooms_add_up_over_partitions_as_of_the_last_exchange(records: list[Record], data: st.DataObject) -> None:
    """Two members own three partitions; the oracle keeps whole lists of what was published."""
    engines = [FeatureEngine(capacity=64), FeatureEngine(capacity=64)]
    owner = {0: engines[0], 1: engines[0], 2: engines[1]}
    for partition, engine in owner.items():
        engine.open(partition)
    rows, oracle, got, want = Rows(), Oracle(), [], []
    published: dict[str, dict[int, bytes]] = {}
    for record in records:
        if data.draw(st.integers(0, 3)) == 0:
            exchange(engines, published, 3)
            seen: dict[tuple[int, str], Room] = {key: copy.deepcopy(room) for key, room in oracle.rooms.items()}
            oracle.others = {
                (partition, name): [room for (p, n), room in seen.items() if n == name and p != partition]
                for partition in range(3)
                for _, name in seen
                if (partition, name) in oracle.rooms  # a room that is not in memory yet has nowhere to put shares
            }
        got.append(run_batch(owner[record.partition], rows, [record]))
        want.append(oracle.see(*record))

    assert_same(join(got), stack(want))


def test_shares_are_taken_once_and_again_after_a_change() -> None:
    engine, rows = engine_of(2), Rows()
    run_batch(engine, rows, [comment(1, 0), comment(2, 1), comment(3, 1, room="room-2")])

    assert {p: set(rooms) for p, rooms in engine.take_dirty_shares().items()} == {0: {"room"}, 1: {"room", "room-2"}}
    assert engine.take_dirty_shares() == {}
    run_batch(engine, rows, [comment(4, 1, at=5)])
    assert engine.take_dirty_shares() == {1: {"room": rows.rooms[1, "room"]}}


def test_active_rooms_are_those_with_events_since_the_last_call() -> None:
    engine, rows = engine_of(2), Rows()
    run_batch(engine, rows, [comment(1, 0), comment(2, 1), comment(3, 1, room="room-2")])

    assert sorted(engine.begin_round(1)) == [(0, "room"), (1, "room"), (1, "room-2")]
    assert engine.begin_round(1) == []
    run_batch(engine, rows, [comment(3, 1, room="room-2")])
    assert engine.begin_round(1) == []  # a duplicate is no event


def test_forgetting_a_partition_forgets_its_shares() -> None:
    engine, rows = engine_of(2), Rows()
    run_batch(engine, rows, [comment(1, 0), comment(2, 1)])
    engine.forget(0)

    assert set(engine.take_dirty_shares()) == {1}
    assert engine.begin_round(1) == [(1, "room")]


def test_setting_shares_replaces_them() -> None:
    engine, rows, alone = engine_of(1), Rows(), engine_of(1)
    run_batch(engine, rows, [comment(1, 0)])
    run_batch(alone, Rows(), [comment(1, 0)])
    other = engine_of(2)
    run_batch(other, Rows(), [comment(2, 1)])
    share = other.take_dirty_shares()[1]["room"]
    for _ in range(3):
        engine.set_other_shares({(0, "room"): [share]})
    with_share = run_batch(engine, rows, [comment(3, 0, at=1)])
    engine.set_other_shares({(0, "room"): []})
    without = run_batch(engine, rows, [comment(4, 0, at=2)])
    expected = [run_batch(alone, Rows(), [record]) for record in (comment(3, 0, at=1), comment(4, 0, at=2))]

    assert not np.array_equal(with_share.features, expected[0].features)
    assert np.array_equal(without.features, expected[1].features)


def test_shares_of_unknown_rooms_and_partitions_are_let_go() -> None:
    engine = engine_of(1)
    engine.set_other_shares({(0, "nowhere"): [b"anything"], (7, "nowhere"): [b"anything"]})


def test_a_share_of_another_version_is_refused_in_words_and_counts_for_nothing() -> None:
    engine, rows = engine_of(1), Rows()
    run_batch(engine, rows, [comment(1, 0)])
    blob = rows.rooms[0, "room"]
    assert engine.set_other_shares({(0, "room"): [blob]}) == []
    (refused,) = engine.set_other_shares({(0, "room"): [blob, bytes([blob[0] + 8]) + blob[1:]]})
    assert "A stored room row has version 3" in str(refused)
    alone, others = engine_of(1), Rows()
    run_batch(alone, others, [comment(1, 0)])
    alone.set_other_shares({(0, "room"): [blob]})
    assert np.array_equal(
        run_batch(engine, rows, [comment(2, 0)]).features, run_batch(alone, others, [comment(2, 0)]).features
    )


def test_rooms_that_come_after_a_pause_are_to_be_asked_for_once() -> None:
    engine, rows = engine_of(1), Rows()

    def unheard(number: int, room: str = "room") -> list[tuple[int, str]]:
        batch, _ = take(engine, rows, [comment(number, 0, room=room), comment(number + 1, 0, room=room)])
        return batch.unheard

    engine.begin_round(10)
    assert unheard(1) == [(0, "room")]
    assert unheard(3) == []
    assert engine.begin_round(11) == [(0, "room")]
    assert unheard(5) == [], "it was asked for when the round began"
    assert engine.begin_round(12) == [(0, "room")]
    assert engine.begin_round(13) == []
    assert unheard(7) == [(0, "room")], "nothing happened in the round before"
    assert unheard(9, room="another") == [(0, "another")]


def test_shares_that_come_while_their_batch_waits_are_in_its_features() -> None:
    engine, other = engine_of(1), engine_of(2)
    engine.begin_round(10)
    run_batch(other, Rows(), [comment(number, 1) for number in range(2, 5)])
    share = other.take_dirty_shares()[1]["room"]
    record = comment(1, 0)
    batch = engine.prepare([record.event], [0], [record.broker_ms])
    engine.admit(batch.missing, [None] * len(batch.missing))
    engine.set_other_shares({(0, "room"): [share]})
    features = engine.compute(batch).features[0]
    assert features[[feature.name for feature in FEATURES].index("room_1h_events")] == pytest.approx(lg(4))
