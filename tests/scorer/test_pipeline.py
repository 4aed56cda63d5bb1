"""Whatever producers send: every record has one fate, and none of them stops the others."""

import json
import random
from typing import Any

import pytest

from features.events import BADGES, EVENT_TYPES
from tests.scorer.rig import T0, FaultyStore, ListSink, Log, Member, Rec, expected_rows, filled, say

NUMBERS = {
    "fan_level": 10_000, "watch_ms": 30 * 86_400_000, "text_len": 100_000, "count": 100_000, "amount_minor": 10**12,
    "unit_price": 10**12, "tier": 1_000, "months": 10_000, "viewers": 10**9, "online": 10**9,
    "duration_ms": 30 * 86_400_000,
}  # fmt: skip
NONSENSE = (
    None, b"", b"\xff", b"null", b"[" * 9_000, b'{"type":"gift"}', b'{"type":"from-the-future","room_id":"r"}',
    b'{"event_id":"\\ud800","type":"like","event_time_ms":1,"room_id":"r","streamer_id":"s","viewer_id":"v"}',
    b'{"event_id":"e","type":"like","event_time_ms":1e999,"room_id":"r","streamer_id":"s","viewer_id":"v"}',
)  # fmt: skip


class Producer:
    """Events of every type whose fields lie on the contract's bounds, nonsense among them, stamped with anything."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def record(self, offset: int) -> Rec:
        rng = self.rng
        event = self._event()
        value: bytes | None = json.dumps(event, ensure_ascii=rng.random() < 0.5).encode()
        key = event["viewer_id"].encode() if "viewer_id" in event else None
        if rng.random() < 0.1:
            value = rng.choice((*NONSENSE, b'{"event_id": "e", "type":'))
        if rng.random() < 0.02:
            key = rng.choice((None, b"", b"\xff", b"someone else"))
        stamp = rng.choice((0, -1, T0 + 50 * offset, T0 + 50 * offset, 4_102_444_800_000, 2**63 - 1))
        return Rec(offset, stamp, key, value)

    def _event(self) -> dict[str, Any]:
        rng = self.rng
        event: dict[str, Any] = {
            "event_id": self._text() if rng.random() < 0.2 else f"e{rng.randrange(10**6)}",
            "type": rng.choice(EVENT_TYPES),
            "event_time_ms": rng.choice((1, 4_102_444_800_000, T0, T0 + rng.randrange(10**7))),
            "room_id": self._text(),
            "streamer_id": self._text(),
        }
        if rng.random() < 0.9:
            event["viewer_id"] = self._text()
        for name, most in NUMBERS.items():
            if rng.random() < 0.5:
                event[name] = rng.choice((0, 1, most, rng.randrange(most)))
        for name in ("gift_tx_id", "combo_id", "gift_id", "session_id"):
            if rng.random() < 0.5:
                event[name] = self._text()
        event["coin_type"] = rng.choice(("paid", "free", "bag"))
        event["badges"] = rng.sample(BADGES, rng.randrange(len(BADGES)))
        return event

    def _text(self) -> str:
        return self.rng.choice(("a", "b", "*", "{}", ":", "é" * 64, "x" * 64, "💥" * 10))


@pytest.mark.parametrize("seed", range(4))
async def test_no_record_stops_another(seed: int) -> None:
    log, producer = Log(2), Producer(seed)
    for partition in range(2):
        log.records[partition] = [producer.record(offset) for offset in range(300)]
    member = Member(log, FaultyStore(), ListSink())
    member.source.most = 100
    member.start(0, 1)
    for partition in range(2):
        await member.until(partition, 300)
        assert member.store.rows(partition) == await expected_rows(log, partition)
    await member.end()
    totals = member.metrics.totals()
    assert (totals.consumed, totals.unaccounted) == (600, 0)
    assert min(totals.prior, totals.state_only, totals.unknown + totals.rejected) > 0
    letters = sum(topic == "dlq" for topic, _, _ in member.sink.published)
    scores = sum(topic == "scores" for topic, _, _ in member.sink.published)
    assert (letters, scores) == (totals.rejected, totals.prior)


async def test_what_comes_too_late_counts_and_gets_no_score() -> None:
    log = Log(1)
    log.records[0] = [say(i, f"v{i % 3}")._replace(timestamp=T0 - 60_000 * (i % 2)) for i in range(12)]
    member = Member(log, FaultyStore(), ListSink(), publish_late=False)
    member.start(0)
    await member.until(0, 12)
    await member.end()
    assert member.sink.offsets(0) == [0, 2, 4, 6, 8, 10]
    assert member.store.rows(0) == await expected_rows(log, 0)
    totals = member.metrics.totals()
    assert (totals.consumed, totals.prior, totals.shed, totals.unaccounted) == (12, 6, 6, 0)
    (latencies, seconds), (waits, waited) = (
        histogram.snapshot()[""] for histogram in (member.metrics.latency, member.metrics.wait)
    )
    assert (latencies.sum(), seconds) == (6, 0.0)
    assert (waits.sum(), waited) == (12, 6 * 60.0)


async def test_of_a_rebuild_only_what_is_new_is_published() -> None:
    log, store = filled(29), FaultyStore()
    first = Member(log, store, ListSink())
    first.start(0)
    await first.until(0, 29)
    await first.ownership.commit()
    await first.end()
    store.flush()
    log.records[0] = filled(40).records[0]  # some batch has records of both kinds
    second = Member(log, store, ListSink(), name="b")
    second.start(0)
    await second.until(0, 40)
    await second.end()
    assert second.sink.offsets(0) == list(range(29, 40))
    totals = second.metrics.totals()
    assert (totals.prior, totals.state_only) == (11, 29)


async def test_a_dead_letter_fits_the_topic_whatever_the_record_holds() -> None:
    """A compressed batch may hold records far above what a broker takes; refused for ever, it would block the rest."""
    log = Log(1)
    log.records[0] = [Rec(0, T0, b"k" * 3_000_000, b"x" * 20_000_000)]
    member = Member(log, FaultyStore(), ListSink())
    member.start(0)
    await member.until(0, 1)
    await member.end()
    ((_, _, letter),) = member.sink.published
    assert letter.key is not None
    assert letter.value is not None
    headers = sum(len(name) + len(value) for name, value in letter.headers)
    assert len(letter.key) + len(letter.value) + headers < 1_000_000
    assert dict(letter.headers)["dlq.cut"].startswith(b"20000000 bytes")
