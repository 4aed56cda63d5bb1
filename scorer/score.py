"""Score records: what is published for each scored event, and dead letters for what could not be read."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from engines.ladder import Answer
from features.events import Event
from scorer.kafka.sink import Message
from scorer.record import Record

SOURCE_OFFSET = "src-off"  # header: the event's offset, 8 bytes, big endian
_TTL_MS = 60_000  # a score is about the moment; published practice refreshes every 30-60 s
_FAR_MS = 10**12  # a producer may stamp its records with any 64 bits; JSON takes no more than these either
_DECIMALS = 7  # finer than what separates two runs of one model, coarser than float32's noise
_DEAD_LETTER_BYTES = 512 * 1024  # brokers take 1 MiB by default; a longer value is cut, and says so
_DEAD_KEY_BYTES = 64 * 1024
_REASON_BYTES = 512


class Timing(NamedTuple):
    """When a batch passed, in milliseconds since 1970."""

    taken_ms: float
    features_ms: float
    scored_ms: float


class Published(NamedTuple):
    """What is told of n answers, wherever they are computed again: rounded past where two runs of one model differ."""

    p_tip: NDArray[np.float64]
    """(n, H)"""
    value: NDArray[np.int64]
    """(n,) minor units"""
    tier: NDArray[np.intp]
    """(n,) index into the manifest's tiers"""


class Scoring(NamedTuple):
    """What all scores of one batch share."""

    answer: Answer
    features: str
    """Fingerprint of the feature catalogue."""
    arm: str
    timing: Timing


def published(answer: Answer) -> Published:
    """Round an answer and name its tiers."""
    p_tip = answer.scores.p_tip.astype(np.float64).round(_DECIMALS)
    thresholds = [tier.at_least for tier in answer.model.manifest.tiers]
    tier = np.searchsorted(thresholds, p_tip[:, -1], side="right") - 1
    return Published(p_tip, np.rint(answer.scores.value).astype(np.int64), tier)


def messages(
    scoring: Scoring,
    events: Sequence[Event],
    records: Sequence[Record],
    cold: NDArray[np.bool_],
    deadline_ms: float,
) -> list[Message]:
    """One message an event; all sequences have n entries, in the order of the answer's rows."""
    answer, features, arm, timing = scoring
    manifest = answer.model.manifest
    horizons = [str(seconds) for seconds in manifest.horizons_s]
    names = [tier.name for tier in manifest.tiers]
    p_tip, values, tiers = (column.tolist() for column in published(answer))
    stages = {
        "features": int((timing.features_ms - timing.taken_ms) * 1000),
        "inference": int((timing.scored_ms - timing.features_ms) * 1000),
    }
    taken_ms, late_ms = timing.taken_ms, timing.scored_ms - deadline_ms
    # What all scores of the batch have in common is encoded once and appended to what they have not.
    common = {
        "scored_time_ms": int(timing.scored_ms),
        "mode": answer.mode,
        "model": f"{manifest.name}:{manifest.version}",
        "engine": answer.model.engine,
        "features": features,
        "arm": arm,
    }
    tail = b"," + orjson.dumps(common)[1:]
    out = []
    for event, record, p, tier, value, is_cold in zip(
        events, records, p_tip, tiers, values, cold.tolist(), strict=True
    ):
        timestamp = record.timestamp
        own = {
            "event_id": event.event_id,
            "type": event.type,
            "viewer_id": event.viewer_id,
            "room_id": event.room_id,
            "streamer_id": event.streamer_id,
            "session_id": event.session_id,
            "event_time_ms": event.event_time_ms,
            "expires_at_ms": event.event_time_ms + _TTL_MS,
            "p_tip": dict(zip(horizons, p, strict=True)),
            "expected_value_minor": value,
            "tier": names[tier],
            "cold_start": is_cold,
            "late": timestamp < late_ms,
            "latency_us": {"wait": int(max(-_FAR_MS, min(taken_ms - timestamp, _FAR_MS)) * 1000), **stages},
        }
        header = (SOURCE_OFFSET, record.offset.to_bytes(8, "big"))
        out.append(Message(record.key, orjson.dumps(own)[:-1] + tail, [header]))
    return out


def dead_letter(topic: str, partition: int, record: Record, reason: str, detail: str) -> Message:
    """The record as it came, and why it could not be used."""
    key, value = record.key, record.value
    headers = [
        ("dlq.topic", topic.encode()),
        ("dlq.partition", str(partition).encode()),
        ("dlq.offset", str(record.offset).encode()),
        ("dlq.reason", _cut(f"{reason}: {detail}", _REASON_BYTES)),
        ("dlq.version", _VERSION),
    ]
    if value is not None and len(value) > _DEAD_LETTER_BYTES:
        headers.append(("dlq.cut", f"{len(value)} bytes, the first {_DEAD_LETTER_BYTES} kept".encode()))
        value = value[:_DEAD_LETTER_BYTES]
    if key is not None and len(key) > _DEAD_KEY_BYTES:
        headers.append(("dlq.cut.key", f"{len(key)} bytes, the first {_DEAD_KEY_BYTES} kept".encode()))
        key = key[:_DEAD_KEY_BYTES]
    return Message(key, value, headers)


def _cut(text: str, limit: int) -> bytes:
    """UTF-8 of the text, at most so many bytes of it, no character cut in two."""
    return text.encode()[:limit].decode(errors="ignore").encode()


_VERSION = version("tipstream").encode()
