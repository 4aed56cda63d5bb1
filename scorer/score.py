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
_DECIMALS = 7  # finer than what separates two runs of one model, coarser than float32's noise
_DEAD_LETTER_BYTES = 512 * 1024  # brokers take 1 MiB by default; a longer value is cut, and says so


class Timing(NamedTuple):
    """When a batch passed, in milliseconds since 1970."""

    taken_ms: float
    features_ms: float
    scored_ms: float


class Scoring(NamedTuple):
    """What all scores of one batch share."""

    answer: Answer
    features: str
    """Fingerprint of the feature catalogue."""
    arm: str
    timing: Timing


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
    # Rounded, so that a score's text is short and the same wherever it is computed again.
    p_tip = answer.scores.p_tip.astype(np.float64).round(_DECIMALS)
    thresholds = np.array([tier.at_least for tier in manifest.tiers])
    names = [tier.name for tier in manifest.tiers]
    tiers = (np.searchsorted(thresholds, p_tip[:, -1], side="right") - 1).tolist()
    values = np.rint(answer.scores.value).astype(np.int64).tolist()
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
        events, records, p_tip.tolist(), tiers, values, cold.tolist(), strict=True
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
            "latency_us": {"wait": int((taken_ms - timestamp) * 1000), **stages},
        }
        header = (SOURCE_OFFSET, record.offset.to_bytes(8, "big"))
        out.append(Message(record.key, orjson.dumps(own)[:-1] + tail, [header]))
    return out


def dead_letter(topic: str, partition: int, record: Record, reason: str, detail: str) -> Message:
    """The record as it came, and why it could not be used."""
    value = record.value
    headers = [
        ("dlq.topic", topic.encode()),
        ("dlq.partition", str(partition).encode()),
        ("dlq.offset", str(record.offset).encode()),
        ("dlq.reason", f"{reason}: {detail}".encode()[:512]),
        ("dlq.version", _VERSION),
    ]
    if value is not None and len(value) > _DEAD_LETTER_BYTES:
        headers.append(("dlq.cut", f"{len(value)} bytes, the first {_DEAD_LETTER_BYTES} kept".encode()))
        value = value[:_DEAD_LETTER_BYTES]
    return Message(record.key, value, headers)


_VERSION = version("tipstream").encode()
