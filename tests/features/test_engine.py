"""The engine against the oracle, to the bit, however the events are cut into batches and rows are lost and found."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.engine import Batch, FeatureEngine, RowKey
from features.events import Event
from features.kernel import DUPLICATE, FRESH
from features.rows import ROW_VERSION
from tests.features.harness import Lines, Record, Rows, assert_same, engine_of, join, run_batch, take
from tests.features.oracle import Oracle
from tests.features.traffic import START, random_stream, streams

THOROUGH = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def oracle_lines(records: Sequence[Record]) -> Lines:
    oracle = Oracle()
    lines = [oracle.see(*record) for record in records]
    return Lines(
        np.array([line.features for line in lines]),
        np.array([line.history for line in lines]),
        np.array([line.status for line in lines], np.uint8),
        np.array([line.flags for line in lines], np.uint8),
    )


def comment(number: int, viewer: str = "viewer", room: str = "room", streamer: str = "streamer") -> Record:
    event = Event(f"event-{number}", "comment", START + 1_000 * number, room, streamer, viewer_id=viewer, text_len=9)
    return Record(event, 0, event.event_time_ms)


def elsewhere(number: int) -> Record:
    return comment(number)._replace(partition=1)


@THOROUGH
@given(streams())
def test_the_engine_says_what_the_oracle_says(records: list[Record]) -> None:
    assert_same(run_batch(engine_of(2), Rows(), records), oracle_lines(records))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("skew", [1.05, 2.5])
def test_skewed_traffic_agrees_too(seed: int, skew: float) -> None:
    records = random_stream(seed, size=300, viewers=12, skew=skew)

    assert_same(run_batch(engine_of(2), Rows(), records), oracle_lines(records))


@THOROUGH
@given(streams(), st.data())
def test_a_split_changes_nothing(records: list[Record], data: st.DataObject) -> None:
    """Between batches rows may go to the store and come back, by eviction, by a restart, or on another machine.

    What several batches changed may wait to be stored, and the store is older meanwhile.
    """
    cuts = sorted(data.draw(st.sets(st.integers(0, len(records)), max_size=6)) | {0, len(records)})
    engine, rows, parts = engine_of(2, capacity=data.draw(st.sampled_from((1, 2, 64)))), Rows(), []
    waiting: list[Batch] = []
    for start, stop in pairwise(cuts):
        batch, lines = take(engine, rows, records[start:stop])
        parts.append(lines)
        waiting.append(batch)
        what = data.draw(st.sampled_from(("go on", "store", "forget", "move")))
        if what == "go on" and stop < len(records):
            continue
        rows.write(engine.changes(*waiting))
        for partition in range(2):
            engine.release(partition, batch.sequence)
        waiting.clear()
        if what == "forget":
            engine.forget(0)
            engine.open(0)
        elif what == "move":
            engine = engine_of(2)

    whole = Rows()
    assert_same(join(parts), run_batch(engine_of(2), whole, records))
    assert rows.viewers == whole.viewers
    assert rows.rooms == whole.rooms


def test_one_event_at_a_time_is_the_same() -> None:
    records = random_stream(7, size=250, viewers=5, skew=1.5)
    engine, rows = engine_of(2), Rows()

    parts = [run_batch(engine, rows, [record]) for record in records]

    assert_same(join(parts), oracle_lines(records))


def test_eviction_is_exact_and_bounded() -> None:
    records = random_stream(11, size=1_500, viewers=200, skew=1.1)
    small, large = engine_of(2, capacity=8), engine_of(2, capacity=10_000)
    small_rows, large_rows = Rows(), Rows()

    for start in range(0, len(records), 16):
        chunk = records[start : start + 16]
        assert_same(run_batch(small, small_rows, chunk), run_batch(large, large_rows, chunk))
        small.take_dirty_shares()

    assert small_rows.viewers == large_rows.viewers
    assert small.sizes()["viewer"] <= 8 + 16
    assert large.sizes()["viewer"] > 100


@pytest.mark.parametrize("seed", range(4))
def test_eviction_is_exact_while_the_store_lags_behind_erasures(seed: int) -> None:
    rng = random.Random(seed)
    records = [
        record
        if record.event.viewer_id is None or rng.random() > 0.05
        else record._replace(event=erasure(record.event))
        for record in random_stream(seed, size=2_000, viewers=30, skew=1.1)
    ]
    small, large = engine_of(2, capacity=3), engine_of(2, capacity=10_000)
    rows, whole = Rows(), Rows()
    waiting: list[Batch] = []
    for start in range(0, len(records), 10):
        chunk = records[start : start + 10]
        batch, lines = take(small, rows, chunk)
        assert_same(lines, run_batch(large, whole, chunk))
        small.take_dirty_shares()
        waiting.append(batch)
        if rng.random() < 0.15:
            rows.write(small.changes(*waiting))
            waiting.clear()
            for partition in range(2):
                small.release(partition, batch.sequence)


def erasure(event: Event) -> Event:
    return Event(event.event_id, "erase", event.event_time_ms, event.room_id, event.streamer_id, event.viewer_id)


def test_what_is_not_durable_is_never_evicted() -> None:
    engine, rows = engine_of(1, capacity=2), Rows()
    for number in range(20):
        run_batch(engine, rows, [comment(number, viewer=f"viewer-{number}")], durable=False)
    assert engine.sizes()["viewer"] == 20

    engine.release(0, up_to=10**9)
    run_batch(engine, rows, [comment(20, viewer="viewer-20")])

    assert engine.sizes()["viewer"] == 3


def test_a_partition_that_is_given_up_keeps_nothing_in_memory_that_others_need() -> None:
    engine, rows = engine_of(2, capacity=2), Rows()
    run_batch(engine, rows, [comment(0, viewer="stuck")], durable=False)
    engine.abandon(0)
    for number in range(1, 20):
        run_batch(engine, rows, [elsewhere(number)._replace(event=comment(number, viewer=f"viewer-{number}").event)])
    assert engine.sizes()["viewer"] == 3
    assert set(engine.take_dirty_shares()) == {1}


def test_more_rows_than_the_capacity_do_not_move_the_tables() -> None:
    """Growing copies them, seconds of it, in the middle of a batch."""
    engine, rows = engine_of(1, capacity=2), Rows()
    before = engine._cache.viewers.rows
    for number in range(20):
        run_batch(engine, rows, [comment(number, viewer=f"viewer-{number}")], durable=False)
    assert engine._cache.viewers.rows is before


def test_an_erased_viewer_is_not_read_back_before_the_erasure_is_stored() -> None:
    engine, rows = engine_of(1, capacity=1), Rows()
    run_batch(engine, rows, [comment(0), comment(1)])
    erase = Record(Event("erase-1", "erase", START + 5_000, "room", "streamer", viewer_id="viewer"), 0, START + 5_000)

    batch = engine.prepare([erase.event], [0], [erase.broker_ms])
    engine.compute(batch)
    other = engine.prepare([comment(2, viewer="other").event], [0], [START])
    engine.admit(other.missing, [None] * len(other.missing))
    engine.compute(other)
    after = engine.prepare([comment(3).event], [0], [START])

    assert [key for key in after.missing if key.id == "viewer"] == []
    assert engine.changes(batch)[0].viewers["viewer"].erased
    assert engine.changes(batch)[0].viewers["viewer"].row is None


def test_no_pair_of_an_erased_viewer_is_read_back_before_the_erasure_is_stored() -> None:
    """Not even one that came after it and changed nothing, as a reversal of what nobody knows: it may be evicted."""
    engine, rows = engine_of(1, capacity=1), Rows()
    run_batch(engine, rows, [comment(0), comment(1)])
    erase, reversal = (
        Record(Event(f"{kind}-1", kind, START + 5_000, "room", "streamer", viewer_id="viewer"), 0, START + 5_000)
        for kind in ("erase", "gift_reversal")
    )
    reversal.event.gift_tx_id = "nobody's"
    crowd = [comment(2, viewer="other", streamer=f"streamer-{number}") for number in range(9)]
    run_batch(engine, Rows(), [erase, reversal], durable=False)
    run_batch(engine, rows, crowd, durable=False)

    later = engine.prepare([comment(3).event], [0], [START])

    assert [key for key in later.missing if key.id == "viewer"] == []


def test_an_erasure_reaches_the_store_with_what_follows_it() -> None:
    engine, rows = engine_of(1), Rows()
    run_batch(engine, rows, [comment(0), comment(1, room="room-2", streamer="streamer-2")])
    erase = Record(Event("erase-1", "erase", START + 5_000, "room", "streamer", viewer_id="viewer"), 0, START + 5_000)

    run_batch(engine, rows, [comment(2), erase, comment(3)])

    fresh_rows = Rows()
    run_batch(engine_of(1), fresh_rows, [comment(3)])
    assert rows.viewers == fresh_rows.viewers
    run_batch(engine, rows, [erase])
    assert rows.viewers == {}


def test_a_slot_that_changed_hands_before_the_cut_writes_nothing() -> None:
    """The erased viewer's slot belongs to a row that is still being loaded when the changes are taken."""
    engine, rows = engine_of(1), Rows()
    run_batch(engine, rows, [comment(0, viewer="stored")])
    engine.forget(0)
    engine.open(0)
    erase = Event("erase-1", "erase", START + 5_000, "room", "streamer", viewer_id="viewer")
    batches = []
    for event in (comment(1).event, erase):
        batches.append(engine.prepare([event], [0], [START]))
        engine.admit(batches[-1].missing, rows.load(batches[-1].missing))
        engine.compute(batches[-1])
    loading = engine.prepare([comment(2, viewer="stored").event], [0], [START])
    changes = engine.changes(*batches)[0]

    assert [key.id for key in loading.missing if key.table == "viewer"] == ["stored"]
    assert set(changes.viewers) == {"viewer"}
    assert changes.viewers["viewer"].row is None


def test_changes_of_several_batches_are_those_of_the_rows_as_they_are_now() -> None:
    records = random_stream(5, size=60, viewers=6, skew=1.4)
    engine, each, together, batches = engine_of(2), Rows(), Rows(), []
    for start in range(0, 60, 7):
        events, partitions, broker = zip(*records[start : start + 7], strict=True)
        batch = engine.prepare(events, partitions, broker)
        engine.admit(batch.missing, [None] * len(batch.missing))
        engine.compute(batch)
        each.write(engine.changes(batch))
        batches.append(batch)
    together.write(engine.changes(*batches))

    assert together.viewers == each.viewers
    assert together.rooms == each.rooms
    assert engine.changes() == {}
    assert engine.changes(*batches) == {
        partition: engine.changes(*batches, partition=partition)[partition] for partition in range(2)
    }


def test_a_known_viewer_asks_for_the_pair_only_and_a_new_one_for_nothing_more() -> None:
    engine, rows = engine_of(1), Rows()
    first = engine.prepare([comment(0).event], [0], [START])
    assert first.missing == [
        RowKey(0, "room", "room"),
        RowKey(0, "viewer", "viewer"),
        RowKey(0, "pair", "viewer", "streamer"),
    ]
    engine.admit(first.missing, rows.load(first.missing))
    engine.compute(first)
    rows.write(engine.changes(first))
    unknown_before = engine.prepare([comment(1, streamer="streamer-2").event], [0], [START])
    assert unknown_before.missing == []
    engine.compute(unknown_before)

    restarted = engine_of(1)
    run_batch(restarted, rows, [comment(2)])
    stored = restarted.prepare([comment(3, streamer="streamer-2").event], [0], [START])
    assert stored.missing == [RowKey(0, "pair", "viewer", "streamer-2")]


def test_missing_rows_must_be_admitted_first() -> None:
    engine = engine_of(1)
    batch = engine.prepare([comment(0).event], [0], [START])

    with pytest.raises(RuntimeError, match=r"3 rows are missing: load Batch\.missing and admit it"):
        engine.compute(batch)


def test_a_partition_that_goes_while_its_rows_are_loaded_leaves_the_others_alone() -> None:
    engine, rows = engine_of(2), Rows()
    ours, theirs = comment(0), comment(0, viewer="viewer-2")
    batch = engine.prepare([ours.event, theirs.event], [0, 1], [START, START])
    engine.forget(0)
    engine.admit(batch.missing, [None] * len(batch.missing))
    computed = engine.compute(batch)
    rows.write(engine.changes(batch))

    assert {partition for partition, _ in rows.viewers} == {1}
    alone = run_batch(engine_of(2), Rows(), [theirs._replace(partition=1)])
    assert np.array_equal(computed.features[1], alone.features[0])


def test_what_a_batch_returned_stays_as_it_was() -> None:
    engine, rows = engine_of(1), Rows()
    first = run_batch(engine, rows, [comment(0)])
    copy = first.features.copy(), first.history.copy()
    run_batch(engine, rows, [comment(1)])

    assert np.array_equal(first.features, copy[0])
    assert np.array_equal(first.history, copy[1])


def test_a_duplicate_leaves_every_stored_byte_alone() -> None:
    engine, rows = engine_of(1), Rows()
    run_batch(engine, rows, [comment(number) for number in range(3)])
    before = dict(rows.viewers), dict(rows.rooms)

    batch = engine.prepare([comment(1).event], [0], [START])
    computed = engine.compute(batch)

    assert computed.status.tolist() == [DUPLICATE]
    assert engine.changes(batch) == {}
    assert before == (rows.viewers, rows.rooms)


def test_an_id_is_forgotten_after_32_events() -> None:
    engine, rows = engine_of(1), Rows()
    run_batch(engine, rows, [comment(number) for number in range(32)])

    assert run_batch(engine, rows, [comment(0)]).status.tolist() == [DUPLICATE]
    run_batch(engine, rows, [comment(32)])
    assert run_batch(engine, rows, [comment(0)]).status.tolist() == [FRESH]


def test_a_row_of_another_version_is_refused_in_words_and_no_other_partition_suffers() -> None:
    engine, rows = engine_of(2), Rows()
    run_batch(engine, rows, [comment(0), elsewhere(0)])
    viewer = rows.viewers[0, "viewer"]
    viewer[""] = bytes([viewer[""][0] + 4]) + viewer[""][1:]

    later = [comment(1), elsewhere(1)]
    fresh = engine_of(2)
    batch = fresh.prepare(*zip(*later, strict=True))
    refused = fresh.admit(batch.missing, rows.load(batch.missing))
    assert list(refused) == [0]
    told = f"A stored viewer row has version {ROW_VERSION + 1}; this build reads version {ROW_VERSION}"
    assert told in str(refused[0])
    assert np.array_equal(fresh.compute(batch).features[1], run_batch(engine, rows, later).features[1])


def test_a_partition_that_is_not_open_is_an_error() -> None:
    with pytest.raises(KeyError):
        FeatureEngine(capacity=4).prepare([comment(0).event], [3], [START])


def test_the_slot_of_one_erased_viewer_may_go_to_the_next_in_the_same_cut() -> None:
    """Who is erased leaves nothing behind, not even an empty row under an id."""
    engine, rows = engine_of(1), Rows()
    erasures = [
        Record(Event(f"erase-{i}", "erase", START + i, "room", "streamer", viewer_id=viewer), 0, START + i)
        for i, viewer in enumerate(["a", "b", "b"])
    ]
    batches = []
    for record in [comment(0, "a"), comment(1, "b"), *erasures]:
        batch = engine.prepare([record.event], [0], [record.broker_ms])
        engine.admit(batch.missing, rows.load(batch.missing))
        engine.compute(batch)
        batches.append(batch)
    rows.write(engine.changes(*batches))
    assert rows.viewers == {}


def test_an_erased_viewer_leaves_memory_once_the_erasure_is_durable() -> None:
    engine, rows = engine_of(1), Rows()
    run_batch(engine, rows, [comment(0), comment(1)])
    erase = Record(Event("erase-1", "erase", START + 5_000, "room", "streamer", viewer_id="viewer"), 0, START + 5_000)
    run_batch(engine, rows, [erase], durable=False)
    tables = (engine._cache.viewers, engine._cache.pairs)

    assert not any(table.rows.view(np.uint8).any() for table in tables), "what was known is zeros at once"
    assert engine.sizes()["viewer"] == 1, "and that nothing is known stays until Redis knows it too"
    sequence = engine._cache.partitions[0].erased[0][0]
    loading = engine.prepare([comment(2).event], [0], [START])
    engine.release(0, sequence)
    assert engine.sizes()["viewer"] == 1, "nor does it go while a batch knows it by its slot"
    engine.admit(loading.missing, rows.load(loading.missing))
    engine.compute(loading)
    engine.release(0, loading.sequence)
    assert engine.sizes()["viewer"] == 1, "who came back since stays"

    run_batch(engine, rows, [erase._replace(event=Event("erase-2", "erase", START, "room", "streamer", "viewer"))])
    assert engine.sizes() == {"viewer": 0, "pair": 0, "room": 1}
    assert engine._cache.partitions[0].viewers == {}
