"""Two members and one partition through any order of faults: every score once and in order, state exact.

The members run all of the service between source and sink. What is drawn: hand-overs in order, hand-overs that the old
owner does not hear of (a zombie, which goes on reading, publishing and writing), lost replies, refusals, writes that
land late, outages, a store that goes back to an earlier moment and one that is emptied, and how far everything gets in
between.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from features.events import decode
from tests.scorer.rig import FaultyStore, ListSink, Log, Member, expected_rows, say


class Delivery(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.turns = asyncio.new_event_loop()
        self.patch = pytest.MonkeyPatch()
        for module in ("loop", "checkpointer", "ownership"):
            self.patch.setattr(f"scorer.{module}._RETRY_S", (0.0,))
        self.log, self.store, self.sink = Log(1), FaultyStore(), ListSink()
        self.saved: dict[int, Any] = {}
        self.zombie: Member | None = None

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.turns.run_until_complete(coroutine)

    @initialize()
    def begin(self) -> None:
        async def start() -> None:
            self.owner, self.other = (
                Member(self.log, self.store, self.sink, name=name, drain_s=0.02) for name in ("a", "b")
            )
            self.owner.start(0)
            self.other.start()

        self.run(start())

    @rule(viewers=st.lists(st.sampled_from("uvw"), min_size=1, max_size=8), erase=st.booleans())
    def more(self, viewers: list[str], erase: bool) -> None:
        self.produce(viewers, erase=erase)

    def produce(self, viewers: Sequence[str], *, erase: bool) -> None:
        for viewer in viewers:
            self.log.records[0].append(say(len(self.log.records[0]), viewer))
        if erase:
            self.log.records[0].append(say(len(self.log.records[0]), viewers[0], type="erase"))

    @rule(turns=st.integers(1, 60))
    def go_on(self, turns: int) -> None:
        async def go() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.run(go())

    @rule(kind=st.sampled_from(["refuse", "lose", "hang"]))
    def fail_a_write(self, kind: str) -> None:
        self.store.faults.append(kind)

    @rule()
    def let_hanging_writes_land(self) -> None:
        self.store.proceed.set()
        self.store.proceed = asyncio.Event()

    @rule()
    def outage(self) -> None:
        self.store.away = not self.store.away

    @rule()
    def save(self) -> None:
        self.saved = self.store.snapshot()

    @rule()
    def power_cut(self) -> None:
        self.store.restore(self.saved)
        self.saved = self.store.snapshot()

    @rule()
    def empty(self) -> None:
        self.store.flush()

    @rule()
    def tell_kafka(self) -> None:
        self.run(self.owner.ownership.commit())

    @precondition(lambda self: self.zombie is None)
    @rule(heard=st.booleans())
    def hand_over(self, heard: bool) -> None:
        async def rebalance() -> None:
            if heard:
                await self.owner.ownership.revoked([0])
            self.log.generation += 1
            self.other.source.generation = self.log.generation
            self.other.ownership.assigned([0])

        self.run(rebalance())
        if not heard:
            self.zombie = self.owner
        self.owner, self.other = self.other, self.owner

    @precondition(lambda self: self.zombie is not None)
    @rule()
    def wake_up(self) -> None:
        assert self.zombie is not None
        self.run(self.zombie.ownership.revoked([0]))
        self.zombie = None

    def teardown(self) -> None:
        try:
            self.run(self.finish())
        finally:
            for task in asyncio.all_tasks(self.turns):
                task.cancel()
            self.turns.run_until_complete(asyncio.sleep(0))
            self.turns.close()
            self.patch.undo()

    async def finish(self) -> None:
        self.store.away = False
        self.store.faults.clear()
        self.store.proceed.set()
        if self.zombie is not None:
            await self.zombie.ownership.revoked([0])
        self.produce(["u"], erase=False)  # a loss is noticed by the next write
        await self.owner.until(0, len(self.log.records[0]))
        await self.other.end()
        await self.owner.end()
        assert self.store.rows(0) == await expected_rows(self.log, 0)
        events = decode([r.value for r in self.log.records[0]], [r.key for r in self.log.records[0]]).events
        kept: list[int] = []
        for offset in self.sink.offsets(0):
            if not kept or offset > kept[-1]:
                kept.append(offset)
        assert kept == [offset for offset, event in enumerate(events) if event.type != "erase"]
        for member in (self.owner, self.other):
            assert member.metrics.totals().unaccounted == 0


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
