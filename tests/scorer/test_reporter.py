"""What is told once a second: records that were never read, and what is waited for no longer."""

from __future__ import annotations

from typing import Any, cast

from features.engine import Changes
from features.store import StoreUnavailable
from scorer.health import Health
from scorer.lease import Progress
from scorer.loop import patiently
from scorer.reporter import Reporter
from tests.scorer.rig import FaultyStore, ListSink, Log, Member, say


class Lagless:
    """A source that has read everything."""

    def lag(self, partition: int) -> int:
        return 0


async def reporting() -> tuple[Member, Health, Reporter]:
    log = Log(1)
    log.records[0] = [say(i) for i in range(3)]
    member = Member(log, FaultyStore(), ListSink())
    member.start(0)
    await member.until(0, 3)
    health = Health()
    health.enter("ready")
    return member, health, Reporter(cast(Any, Lagless()), member.ownership, member.engine, member.metrics, health)


async def test_records_that_retention_took_are_counted() -> None:
    member, _, reporter = await reporting()
    reporter.report()
    member.ownership.skipped = 6
    reporter.report()
    reporter.report()
    assert member.metrics.skipped.values == {("retention",): 6}
    await member.end()


async def test_redis_is_waited_for_only_while_a_write_waits() -> None:
    """The write may have gone with its partition, and no later one may come to say that Redis is back."""
    member, health, reporter = await reporting()
    lease = member.ownership.leases[0]
    lease.progress.append(Progress(4, 9, Changes({}, {})))
    health.wait_for("Redis", "away")
    reporter.report()
    assert health.waits
    await member.store.claim(0, 1, "another")
    member.ownership.reclaim(0)
    reporter.report()
    assert not health.waits
    await member.end()


async def test_each_failed_attempt_at_the_store_is_told() -> None:
    answers: list[Exception | int] = [StoreUnavailable("away"), StoreUnavailable("still away"), 7]
    told: list[str] = []

    async def call() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await patiently(call, lambda error: told.append(str(error))) == 7
    assert told == ["away", "still away"]
