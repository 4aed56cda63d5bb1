"""A member stopped at every turn of its event loop, in every way, and another that goes on: no Kafka, no Redis.

Each turn is a place where it awaits something. The member is killed there, cancelled, told that its partition is
revoked, or not told although it is: a zombie. Two partitions, so that one batch spans both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from features.events import decode
from scorer.kafka.sink import Outgoing
from tests.scorer.rig import FaultyStore, ListSink, Log, Member, expected_rows, say

Way = Callable[[Member, "LateSink"], Awaitable[None]]

_PARTITIONS = (0, 1)
_STORY = ("u", "v", "u", "w", "v", "u", "u", "w", "v", "v", "u", "w", "x", "y") * 3


class LateSink(ListSink):
    """Delivers nothing before it is told to; what it holds when its member dies is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.order = asyncio.Lock()

    async def publish(self, outgoing: Sequence[Outgoing]) -> None:
        async with self.order:
            if self.held:
                self.waiting.append(asyncio.get_running_loop().create_future())
                await self.waiting[-1]
            self.published += [(topic, partition, message) for topic, partition, some in outgoing for message in some]

    def deliver(self) -> None:
        """Hold back nothing any more."""
        self.held = False
        for waiting in self.waiting:
            if not waiting.done():
                waiting.set_result(None)


async def killed(member: Member, _: LateSink) -> None:
    await member.die()


async def cancelled(member: Member, _: LateSink) -> None:
    """As asyncio does it when the process ends: each task gets its CancelledError where it waits."""
    assert member.running is not None
    member.running.cancel()
    await asyncio.gather(member.running, return_exceptions=True)
    await member.die()


async def cut_short(member: Member, sink: LateSink) -> None:
    """Its loop is cancelled, as when a stop takes too long; Kafka answers again, and the group takes its partitions."""
    assert member.running is not None
    member.running.cancel()
    await asyncio.gather(member.running, return_exceptions=True)
    sink.deliver()
    await member.ownership.revoked(_PARTITIONS)
    await member.die()


async def revoked(member: Member, sink: LateSink) -> None:
    sink.deliver()
    await member.ownership.revoked(_PARTITIONS)


async def unaware(_: Member, sink: LateSink) -> None:
    """It has lost its partitions and goes on."""
    sink.deliver()


def story() -> Log:
    log = Log(len(_PARTITIONS))
    for partition in _PARTITIONS:
        log.records[partition] += [say(offset, viewer) for offset, viewer in enumerate(_STORY)]
        log.records[partition].append(say(len(_STORY), "v", type="erase"))
        log.records[partition] += [say(len(_STORY) + 1 + offset, viewer) for offset, viewer in enumerate("vuw")]
    return log


async def stopped_at(turn: int, way: Way, expected: Sequence[Any], *, held: bool) -> bool:
    """Do it once. True if the member had not finished by then; `expected` rows are by partition."""
    log, store, sink = story(), FaultyStore(), LateSink()
    first = Member(log, store, sink, name="first", drain_s=0.05)
    sink.held = held
    first.start(*_PARTITIONS)
    for _ in range(turn):
        await asyncio.sleep(0)
        while held and sink.waiting and turn % 3:
            sink.waiting.pop(0).set_result(None)
    before = store.offset(0), store.offset(1)
    await way(first, sink)
    sink.held = False
    log.generation += 1
    second = Member(log, store, sink, name="second")
    second.start(*_PARTITIONS)
    for partition in _PARTITIONS:
        await second.until(partition, len(log.records[partition]))
    await second.end()
    for partition in _PARTITIONS:
        assert store.rows(partition) == expected[partition]
        records = log.records[partition]
        events = decode([r.value for r in records], [r.key for r in records]).events
        kept: list[int] = []
        for offset in sink.offsets(partition):
            if not kept or offset > kept[-1]:
                kept.append(offset)
        assert kept == [offset for offset, event in enumerate(events) if event.type != "erase"]
    assert second.metrics.totals().unaccounted == 0
    if way is unaware:
        await revoked(first, sink)
    if way in (revoked, unaware):
        await first.end()  # raises what it failed with
    await first.die()
    return before != (len(log.records[0]), len(log.records[1]))


@pytest.mark.parametrize("held", [False, True], ids=["acknowledged-at-once", "acknowledged-late"])
@pytest.mark.parametrize("way", [killed, cancelled, cut_short, revoked, unaware])
async def test_every_turn(way: Way, held: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scorer.garbage.collect_all", lambda: None)  # a second each, in a process that runs tests
    expected = [await expected_rows(story(), partition) for partition in _PARTITIONS]
    turn = 0
    while await stopped_at(turn, way, expected, held=held):
        turn += 1
    assert turn > 30, "it was done too soon: more records are needed"
