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
from features.rows import ROW_VERSION, RowVersionError
from features.watch import TURNS, turn_of
from tests.features.harness import Lines, Record, Rows, assert_same, engine_of, join, run_batch, take
from tests.features.ledger import Room
from tests.features.oracle import Line, Oracle, lg
from tests.features.traffic import START, streams


def comment(number: int, partition: int, *, room: str = "room", at: int = 0) -> Record:
    event = Event(
        f"event-{number}", "comment", START + at, room, "streamer", viewer_id=f"viewer-{partition}", text_len=9
    )
    return Record(event, partition, event.event_time_ms)


def tell(engine: FeatureEngine, shares: dict[str, dict[int, bytes]]) -> list[RowVersionError]:
    """What the store answers at once."""
    return engine.set_other_shares(shares, engine.ask_shares())


def exchange(engines: Sequence[FeatureEngine], published: dict[str, dict[int, bytes]]) -> None:
    """Publish every changed share and let every engine read the others' shares of all rooms."""
    for engine in engines:
        for partition, rooms in engine.take_dirty_shares().items():
            for room, share in rooms.items():
                published.setdefault(room, {})[partition] = share
    for engine in engines:
        tell(engine, {room: dict(shares) for room, shares in published.items()})


def stack(lines: list[Line]) -> Lines:
    return Lines(
        np.array([line.features for line in lines]),
        np.array([line.history for line in lines]),
        np.array([line.status for line in lines], np.uint8),
        np.array([line.flags for line in lines], np.uint8),
    )


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(streams(partitions=5), st.data())
def test_rooms_add_up_over_partitions_as_of_the_last_exchange(records: list[Record], data: st.DataObject) -> None:
    """Two members own three and two partitions; the oracle keeps whole lists of what was published."""
    engines = [FeatureEngine(capacity=64), FeatureEngine(capacity=64)]
    owner = {partition: engines[partition // 3] for partition in range(5)}
    for partition, engine in owner.items():
        engine.open(partition)
    rows, oracle, got, want = Rows(), Oracle(), [], []
    published: dict[str, dict[int, bytes]] = {}
    for record in records:
        if data.draw(st.integers(0, 3)) == 0:
            exchange(engines, published)
            seen: dict[tuple[int, str], Room] = {key: copy.deepcopy(room) for key, room in oracle.rooms.items()}
            oracle.others = {
                (partition, name): [room for (p, n), room in seen.items() if n == name and p != partition]
                for partition in owner
                for _, name in seen
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


def test_forgetting_a_partition_forgets_its_shares() -> None:
    engine, rows = engine_of(2), Rows()
    run_batch(engine, rows, [comment(1, 0), comment(2, 1)])
    engine.forget(0)

    assert set(engine.take_dirty_shares()) == {1}


def test_each_room_of_a_batch_gets_what_was_told_of_it() -> None:
    others, told = engine_of(4), dict[str, dict[int, bytes]]()
    said = [comment(number, number % 4, room=f"room-{number % 3}") for number in range(20)]
    run_batch(others, Rows(), said)
    for partition, rooms in others.take_dirty_shares().items():
        for room, blob in rooms.items():
            told.setdefault(room, {})[partition] = blob
    batch = [comment(30 + number, number % 2, room=f"room-{number % 3}", at=1) for number in range(6)]
    together = engine_of(2)
    tell(together, told)
    at_once = run_batch(together, Rows(), batch)
    alone = [FeatureEngine(capacity=64), FeatureEngine(capacity=64)]
    for partition, engine in enumerate(alone):
        engine.open(partition)
        tell(engine, {room: {p: blob for p, blob in shares.items() if p != partition} for room, shares in told.items()})
    assert_same(at_once, join([run_batch(alone[record.partition], Rows(), [record]) for record in batch]))
    assert len({row.tobytes() for row in at_once.features}) == len(batch)


def test_setting_shares_replaces_them() -> None:
    engine, rows, alone = engine_of(1), Rows(), engine_of(1)
    run_batch(engine, rows, [comment(1, 0)])
    run_batch(alone, Rows(), [comment(1, 0)])
    other = engine_of(2)
    run_batch(other, Rows(), [comment(2, 1)])
    share = other.take_dirty_shares()[1]["room"]
    for _ in range(3):
        tell(engine, {"room": {1: share}})
    with_share = run_batch(engine, rows, [comment(3, 0, at=1)])
    tell(engine, {"room": {}})
    without = run_batch(engine, rows, [comment(4, 0, at=2)])
    expected = [run_batch(alone, Rows(), [record]) for record in (comment(3, 0, at=1), comment(4, 0, at=2))]

    assert not np.array_equal(with_share.features, expected[0].features)
    assert np.array_equal(without.features, expected[1].features)


def test_shares_of_rooms_without_events_are_forgotten_with_the_next_round() -> None:
    engine, rows = engine_of(1), Rows()
    tell(engine, {"room": {7: b"nothing that could be read"}})
    engine.next_round()
    run_batch(engine, rows, [comment(1, 0)])
    assert tell(engine, {}) == []


def test_a_share_of_another_version_is_refused_in_words_and_counts_for_nothing() -> None:
    engine, rows = engine_of(1), Rows()
    run_batch(engine, rows, [comment(1, 0)])
    blob = rows.rooms[0, "room"]
    assert tell(engine, {"room": {1: blob}}) == []
    tell(engine, {"room": {1: blob, 2: bytes([blob[0] + 8]) + blob[1:]}})
    features = run_batch(engine, rows, [comment(2, 0)]).features
    (refused,) = tell(engine, {})
    assert f"A stored room row has version {ROW_VERSION + 2}" in str(refused)
    alone, others = engine_of(1), Rows()
    run_batch(alone, others, [comment(1, 0)])
    tell(alone, {"room": {1: blob}})
    assert np.array_equal(features, run_batch(alone, others, [comment(2, 0)]).features)


def test_rooms_of_which_too_little_is_known_are_told_before_the_features() -> None:
    engine, rows = engine_of(2), Rows()

    def unheard(number: int, partition: int = 0, room: str = "room") -> set[str]:
        batch, _ = take(engine, rows, [comment(number + i, partition, room=room) for i in range(2)])
        return batch.unheard

    assert unheard(1) == {"room"}
    assert unheard(3) == set()
    assert unheard(5, partition=1) == {"room"}, "it was not in memory there when it was asked for"
    assert unheard(7, partition=1) == set()
    assert engine.next_round() == ["room"]
    assert unheard(9, partition=1) == set()
    engine.skip_round()
    assert unheard(11) == {"room"}
    assert unheard(13, room="another") == {"another"}


def test_each_room_has_one_turn_in_a_round() -> None:
    engine, rows, rooms = engine_of(1), Rows(), [f"room-{i}" for i in range(50)]
    run_batch(engine, rows, [comment(i, 0, room=room) for i, room in enumerate(rooms)])
    for _ in range(4):
        assert sorted(room for turn in range(TURNS) for room in engine.next_round(turn)) == sorted(rooms)
    assert not engine.next_round()


def test_what_is_known_of_a_room_lasts_until_its_own_turn() -> None:
    engine, rows = engine_of(2), Rows()
    run_batch(engine, rows, [comment(1, 0)])
    engine.next_round()
    tell(engine, {"room": {1: rows.rooms[0, "room"]}})
    for _ in range(9):
        engine.next_round((turn_of("room") + 1) % TURNS)
    own = run_batch(engine, rows, [comment(2, 0)]).features[:, ROOM_EVENTS]
    assert own == pytest.approx(lg(3)), "two of its own partition and one of the other"


def test_events_of_two_partitions_in_one_batch_both_wait_for_their_room() -> None:
    engine, other = engine_of(2), engine_of(3)
    rows = Rows()
    take(engine, rows, [comment(1, 0), comment(2, 1)])
    engine.skip_round()
    run_batch(other, Rows(), [comment(number, 2) for number in range(3, 6)])
    share = other.take_dirty_shares()[2]["room"]
    batch = engine.prepare([comment(number, number % 2).event for number in (6, 7)], [0, 1], [START, START])
    tell(engine, {"room": {2: share}})
    known = engine.compute(batch).features[:, [feature.name for feature in FEATURES].index("room_1h_events")]
    assert known == pytest.approx(lg(5)), "two of its own partition and three of the other"


ROOM_EVENTS = [feature.name for feature in FEATURES].index("room_1h_events")


def told_by(partition: int, *, comments: int, first: int) -> bytes:
    """A partition's share of the room."""
    engine = engine_of(partition + 1)
    run_batch(engine, Rows(), [comment(number, partition) for number in range(first, first + comments)])
    return engine.take_dirty_shares()[partition]["room"]


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_shares_that_come_while_their_batch_waits_are_in_its_features(rounds: int) -> None:
    engine, record = engine_of(1), comment(1, 0)
    batch = engine.prepare([record.event], [0], [record.broker_ms])
    engine.admit(batch.missing, [None] * len(batch.missing))
    tell(engine, {"room": {1: told_by(1, comments=3, first=2)}})
    for _ in range(rounds):
        engine.next_round()
    assert engine.compute(batch).features[0][ROOM_EVENTS] == pytest.approx(lg(4))


def test_an_answer_that_comes_late_undoes_no_later_one() -> None:
    engine, rows = engine_of(1), Rows()
    before = engine.ask_shares()
    tell(engine, {"room": {1: told_by(1, comments=3, first=2)}})
    engine.set_other_shares({"room": {1: told_by(1, comments=1, first=2)}}, before)
    assert run_batch(engine, rows, [comment(1, 0)]).features[0][ROOM_EVENTS] == pytest.approx(lg(4))


def test_a_partition_that_is_given_up_with_a_batch_under_way_keeps_no_place() -> None:
    engine, record = engine_of(1), comment(1, 0)
    batch = engine.prepare([record.event], [0], [record.broker_ms])
    engine.forget(0)
    tell(engine, {"room": {1: told_by(1, comments=3, first=2)}})
    engine.compute(batch)
    assert len(engine._cache.others) == 0
