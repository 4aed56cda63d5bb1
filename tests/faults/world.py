"""One case: Kafka, Redis, members and load, what is done to them, and the reckoning at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.faults.fleet import Fleet, Member
from tests.faults.history import History
from tests.faults.load import Load
from tests.faults.member import Trick
from tests.faults.stored import Stored
from tests.faults.traffic import Shape, Traffic
from tests.faults.verify import Verdict, verify
from tests.integration.member import Setup

_STEP_S = 0.05


class World:
    """What a case works with."""

    def __init__(self, setup: Setup, fleet: Fleet, load: Load, stored: Stored, history: History, shape: Shape) -> None:
        self.setup = setup
        self.fleet = fleet
        self.load = load
        self.stored = stored
        self.history = history
        self.seed = history.seed
        self._shape = shape

    async def run(self, members: int, *tricks: Trick) -> list[Member]:
        """Start so many members, the first with the tricks, and wait until they share the work."""
        started = [self.fleet.start(*(tricks if number == 0 else ())) for number in range(members)]
        self.note("start", members=members, tricks=[f"{t.then} {t.when} {t.at} #{t.nth}" for t in tricks])
        await self.fleet.share(*started)
        self.note("all partitions are claimed")
        return started

    def note(self, what: str, **facts: object) -> None:
        """Put something into the history."""
        self.history.note(what, **facts)

    async def flow(self, seconds: float) -> None:
        """Let traffic flow."""
        await asyncio.sleep(seconds)

    async def backlog(self) -> int:
        """Records that the store does not know yet, in Kafka or on their way there."""
        held = await self.stored.offsets()
        return self.load.waiting + sum(end - held[partition] for partition, end in self.load.ends.items())

    async def drained(self, what: str, *, since: float | None = None, seconds: float = 60.0) -> float:
        """Wait until no more than half a second of traffic waits; seconds since `since` (monotonic), or since now."""
        began = time.monotonic() if since is None else since
        await self._until(lambda backlog: backlog <= max(20.0, 0.5 * self.load.rate), seconds)
        took = time.monotonic() - began
        self.history.measure(what, took)
        return took

    async def moves(self, what: str, *, since: float, seconds: float = 60.0) -> float:
        """Wait until the store's offsets grow; the seconds since `since` (monotonic)."""
        async with asyncio.timeout(seconds):
            before = await self.stored.fresh()
            while await self.stored.fresh() <= before:  # noqa: ASYNC110 -- another process says when
                await asyncio.sleep(_STEP_S)
        took = time.monotonic() - since
        self.history.measure(what, took)
        return took

    async def _until(self, enough: Callable[[float], bool], seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while not enough(await self.backlog()):  # noqa: ASYNC110 -- another process says when
                await asyncio.sleep(_STEP_S)

    async def reckon(self, *, shed: bool = False, seconds: float = 60.0) -> Verdict:
        """Stop the load, let everything be finished, and compare it with what should be. Raises AssertionError."""
        await self.load.finish()
        self.note("load stopped", records=self.load.written)
        try:
            await self._until(lambda backlog: backlog == 0, seconds)
        except TimeoutError:
            ready = {member.name: await member.ready() for member in self.fleet.running}
            held = await self.stored.offsets()
            raise AssertionError(f"not all was finished: {held} of {self.load.ends}; {ready}") from None
        given_up = 0
        for member in self.fleet.running:
            given_up += await self._accounted(member)
        verdict = await verify(self.setup, self.stored, exact_scores=not self._shape.mixed_rooms, seed=self.seed)
        self.history.verdict = verdict.told() | {"shed": given_up}
        assert verdict.records == self.load.written > 0, "the load and the topic do not agree: mend the harness"
        assert verdict.sound, self.history.verdict
        assert len(verdict.lost) == (given_up if shed else 0), self.history.verdict
        return verdict

    async def _accounted(self, member: Member) -> int:
        """Every record that a member read has exactly one fate; how many it shed."""
        async with asyncio.timeout(10):
            while not (seen := await member.metrics()):  # noqa: ASYNC110 -- another process says when
                await asyncio.sleep(_STEP_S)
        fates = {name: value for name, value in seen.items() if name.startswith("tipstream_events_total{")}
        consumed = seen["tipstream_records_consumed_total"]
        assert consumed == sum(fates.values()), f"{member.name} read {consumed}, and accounts for {fates}"
        return int(fates['tipstream_events_total{outcome="shed"}'])


@asynccontextmanager
async def world(
    setup: Setup,
    seen: Setup,
    folder: Path,
    history: History,
    *,
    shape: Shape,
    rate: float,
    session_timeout_ms: int | None,
) -> AsyncIterator[World]:
    """Set a case up, with the load flowing; nothing runs any more when the block ends.

    `seen` is the setup as members see it, who may have to go through a proxy; load and verifier use `setup`.
    """
    history.note("setting", partitions=setup.partitions, rate=rate, shape=repr(shape), group=setup.config.kafka.group)
    traffic = Traffic(
        shape, partitions=setup.partitions, seed=history.seed, start_ms=int(time.time() * 1000), step_ms=1000 / rate
    )
    kafka = setup.config.kafka
    fleet = Fleet(seen, folder, session_timeout_ms)
    load = Load(kafka.bootstrap, kafka.events_topic, traffic, setup.partitions, rate)
    try:
        async with Stored(setup) as stored, load:
            yield World(setup, fleet, load, stored, history, shape)
        history.report()
    except BaseException as error:
        history.note("failed", error=f"{type(error).__name__}: {error}"[:20_000])
        for member in fleet.all:
            log = member.log.read_text(errors="replace")[-6_000:]
            history.note(member.name, status=member.status, log=log.splitlines())
        print(f"The history of it is in {history.keep()}; to repeat it: {history.repeat}")
        raise
    finally:
        fleet.end()
