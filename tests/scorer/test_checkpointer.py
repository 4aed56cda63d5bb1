"""One write at a time for each partition, repeated as it was until its outcome is known."""

import asyncio

import pytest

from features.engine import Changes, ViewerChange
from features.store import Checkpoint, StoreUnavailable, Written
from scorer.checkpointer import Checkpointer
from scorer.lease import Lease, Progress
from tests.scorer.rig import FaultyStore


class Notes:
    """A listener that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def written(self, lease: Lease, sequence: int) -> None:
        self.heard.append(sequence)

    def refused(self, lease: Lease, outcome: Written) -> None:
        self.heard.append(outcome)
        lease.lose()

    def failed(self, error: StoreUnavailable) -> None:
        self.heard.append("failed")


class Desk:
    """A claimed partition and who writes for it."""

    def __init__(self) -> None:
        self.store = FaultyStore()
        self.notes = Notes()
        self.checkpointer = Checkpointer(self.store, self.notes)
        self.lease = Lease(0, 1, None, 0)

    def add(self, number: int, changes: Changes) -> None:
        """Progress to offset 10 number."""
        self.checkpointer.add(self.lease, Progress(10 * number, number, changes))

    async def settled(self) -> None:
        await asyncio.wait_for(self.lease.settled.wait(), 5)


@pytest.fixture
async def desk() -> Desk:
    made = Desk()
    await made.store.claim(0, 1, "a")
    return made


def rows(blob: bytes, *viewers: str, erased: bool = False) -> Changes:
    return Changes({viewer: ViewerChange(erased, blob, {"s": blob}) for viewer in viewers}, {"r": blob})


async def test_what_comes_while_a_write_is_under_way_is_written_as_one(desk: Desk) -> None:
    desk.store.faults = ["hang"]
    desk.add(1, rows(b"1", "a", "b"))
    await asyncio.sleep(0)
    desk.add(2, rows(b"2", "b", "c"))
    desk.add(3, rows(b"3", "c"))
    desk.store.proceed.set()
    await desk.settled()
    assert [(write.expected, write.offset) for write in desk.store.writes] == [(None, 10), (10, 30)]
    assert desk.notes.heard == [1, 3]
    viewers, rooms = desk.store.rows(0)
    assert {viewer: held[""] for viewer, held in viewers.items()} == {"a": b"1", "b": b"2", "c": b"3"}
    assert rooms == {"r": b"3"}
    assert desk.lease.stored == 30


async def test_merging_keeps_pairs_and_forgets_what_an_erasure_wiped_out(desk: Desk) -> None:
    desk.store.faults = ["hang"]
    desk.add(1, rows(b"1", "a", "b", "c"))
    await asyncio.sleep(0)
    desk.add(2, Changes({"a": ViewerChange(False, b"2", {"t": b"2"}), "b": ViewerChange(False, None, {"t": b"2"})}))
    desk.add(
        3, Changes({"a": ViewerChange(False, None, {"u": b"3"}), "b": ViewerChange(True), "c": ViewerChange(True)})
    )
    desk.add(4, Changes({"a": ViewerChange(False, b"4"), "c": ViewerChange(False, b"4", {"t": b"4"})}))
    desk.store.proceed.set()
    await desk.settled()
    assert len(desk.store.writes) == 2
    assert desk.store.rows(0)[0] == {
        "a": {"": b"4", "s": b"1", "t": b"2", "u": b"3"},
        "c": {"": b"4", "t": b"4"},
    }


async def test_a_write_is_bounded(desk: Desk) -> None:
    desk.store.faults = ["hang"]
    for number in range(1, 6):
        desk.add(number, rows(b"x", *(f"{number}-{i}" for i in range(400))))
    await asyncio.sleep(0)
    desk.store.proceed.set()
    await desk.settled()
    assert [write.offset for write in desk.store.writes] == [20, 40, 50]


@pytest.mark.parametrize("fault", ["refuse", "lose"])
async def test_a_write_whose_outcome_is_not_known_is_repeated_as_it_was(desk: Desk, fault: str) -> None:
    desk.store.faults = [fault, fault]
    desk.add(1, rows(b"1", "a"))
    await asyncio.sleep(0)
    desk.add(2, rows(b"2", "a"))
    await desk.settled()
    offsets = [write.offset for write in desk.store.writes]
    assert sorted(set(offsets)) == offsets if fault == "refuse" else offsets[-1] == 20
    assert desk.notes.heard == ["failed", "failed", 1, 2]
    assert desk.store.rows(0)[0]["a"][""] == b"2"


@pytest.mark.parametrize(("stored", "outcome"), [(None, Written.FENCED), (5, Written.REWOUND)])
async def test_a_refused_write_ends_the_lease(desk: Desk, stored: int | None, outcome: Written) -> None:
    if stored is None:
        await desk.store.claim(0, 2, "b")
    else:
        await desk.store.checkpoint(Checkpoint(0, 1, None, stored, Changes()))
    desk.add(1, rows(b"1", "a"))
    desk.add(2, rows(b"2", "a"))
    await desk.settled()
    assert desk.notes.heard == [outcome]
    desk.add(3, rows(b"3", "a"))  # passed over
    assert not desk.lease.progress
    assert desk.store.offset(0) == stored


async def test_a_lease_lost_while_the_store_is_away_writes_nothing_more(desk: Desk) -> None:
    desk.store.away = True
    desk.add(1, rows(b"1", "a"))
    while not desk.notes.heard:  # noqa: ASYNC110 -- until the first attempt has failed
        await asyncio.sleep(0)
    desk.lease.lose()
    desk.store.away = False
    await asyncio.sleep(0.1)
    assert desk.store.writes == []
    assert desk.store.offset(0) is None


async def test_a_bug_in_a_write_is_told_to_the_next_who_adds(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nothing would be durable any more, and nobody would hear of it."""

    async def broken(write: Checkpoint) -> Written:
        raise ValueError("a bug")

    monkeypatch.setattr(desk.store, "checkpoint", broken)
    desk.add(1, rows(b"1", "a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="a bug"):
        desk.add(2, rows(b"2", "a"))
