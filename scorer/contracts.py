"""The contracts as documents: JSON Schema for events and scores, AsyncAPI for the topics that carry them.

`python -m scorer.contracts` writes them to `docs/contracts/` (with the `dev` extra: the YAML writer is part of it). The
service encodes scores without this module; a consumer in Python, and our tests, decode them with `Score`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from features.events import EVENT_TYPES, MAX_EVENT_BYTES, ROOM_TYPES, VIEWER_TYPES, Event
from scorer.config import Kafka

FOLDER: Final = Path(__file__).parent.parent / "docs" / "contracts"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Probability = Annotated[float, Meta(ge=0, le=1)]
UnixMs = Annotated[int, Meta(ge=1, description="Unix time in ms")]
Text = Annotated[str, Meta(min_length=1)]


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """How likely a viewer is to tip, as of one event.

    The record's key is the viewer's id; its header `src-off` (8 bytes, big endian) is the event's offset in the input
    partition of the same number. A reader that keeps the highest `src-off` it has seen of each partition and drops what
    is not above it sees every score once.
    """

    event_id: Annotated[Text, Meta(description="The event that asked for this score.")]
    type: Annotated[Text, Meta(description="The event's type.")]
    viewer_id: Text
    room_id: Text
    streamer_id: Text
    session_id: Text | None = None
    event_time_ms: Annotated[UnixMs, Meta(description="When the event happened, Unix time in ms.")]
    scored_time_ms: Annotated[UnixMs, Meta(description="When the model answered, Unix time in ms.")]
    expires_at_ms: Annotated[UnixMs, Meta(description="Do not act on the score after this, Unix time in ms.")]
    p_tip: Annotated[
        dict[str, Probability],
        Meta(
            min_length=1,
            description="Calibrated probability of a tip within a horizon, by the horizon in seconds; never falls as "
            "the horizon grows.",
        ),
    ]
    expected_value_minor: Annotated[
        int, Meta(ge=0, description="Expected tips within the longest horizon, in minor units of the currency.")
    ]
    tier: Annotated[Text, Meta(description="The name that the model's manifest gives to this range of probability.")]
    cold_start: Annotated[bool, Meta(description="The viewer was not known before this event.")]
    mode: Annotated[
        Literal["full", "fallback", "prior"],
        Meta(description="What scored: the serving model, another one in its place, or tip history alone."),
    ]
    model: Annotated[Text, Meta(description="Name and version of the model.")]
    engine: Annotated[Text, Meta(description="What ran it.")]
    features: Annotated[Text, Meta(description="Fingerprint of the feature catalogue.")]
    arm: Annotated[str, Meta(description="Arm of the experiment that the viewer is in; `default` where there is none.")]
    late: Annotated[bool, Meta(description="Past its deadline when the model answered (`batching.publish_late`).")] = (
        False
    )
    latency_us: Annotated[
        dict[str, int],
        Meta(description="Microseconds by stage, up to the model's answer; `wait` compares two machines' clocks."),
    ]


def documents() -> dict[str, str]:
    """Return the text of each document by its file name."""
    return {
        "events.schema.json": _json(_events()),
        "scores.schema.json": _json(_schema(Score, "Score")),
        "asyncapi.yaml": _yaml(_asyncapi()),
    }


def main() -> None:
    """Write the documents."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in documents().items():
        (FOLDER / name).write_text(text, "utf-8")


def _schema(kind: type[msgspec.Struct], title: str) -> dict[str, Any]:
    """Return the schema of one struct as a document of its own."""
    (_,), components = msgspec.json.schema_components([kind])
    body = dict(components[kind.__name__])
    return {"$schema": _DIALECT, "title": title, **body, "description": _flat(body["description"])}


def _events() -> dict[str, Any]:
    schema = _schema(Event, "Event")
    schema["properties"]["type"]["description"] = "Known types: " + ", ".join(EVENT_TYPES) + ". Others are ignored."
    # What `features.events.decode` asks beyond single fields; a test holds the two against each other.
    schema["allOf"] = [
        _requires(VIEWER_TYPES, "viewer_id"),
        _requires(("gift",), "gift_tx_id", "amount_minor", "coin_type"),
        _requires(("gift_reversal",), "gift_tx_id"),
        _requires(("paid_chat",), "amount_minor"),
    ]
    return schema


def _requires(types: tuple[str, ...], *fields: str) -> dict[str, Any]:
    return {
        "if": {"properties": {"type": {"enum": list(types)}}},
        "then": {"required": list(fields), "properties": {field: {"not": {"type": "null"}} for field in fields}},
    }


def _asyncapi() -> dict[str, Any]:
    topics = Kafka()
    viewer_key = {"type": "string", "description": "viewer_id; any for the room-level types " + ", ".join(ROOM_TYPES)}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "tipstream",
            "version": "1.0.0",
            "description": "Viewer-behaviour events in, tipping-intent scores out. The three topics have equally many "
            "partitions; what comes from partition p goes to partition p.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "events": _channel(topics.events_topic, "Viewer-behaviour events.", "event"),
            "scores": _channel(topics.scores_topic, "One score for each event that has a viewer.", "score"),
            "deadLetters": _channel(topics.dlq_topic, "Records that are no event.", "deadLetter"),
        },
        "operations": {
            "readEvents": {"action": "receive", "channel": {"$ref": "#/channels/events"}},
            "publishScores": {"action": "send", "channel": {"$ref": "#/channels/scores"}},
            "publishDeadLetters": {"action": "send", "channel": {"$ref": "#/channels/deadLetters"}},
        },
        "components": {
            "messages": {
                "event": {
                    "summary": f"One event, at most {MAX_EVENT_BYTES} bytes of JSON.",
                    "payload": {"$ref": "./events.schema.json"},
                    "bindings": {"kafka": {"key": viewer_key}},
                },
                "score": {
                    "summary": "How likely the viewer is to tip, as of one event.",
                    "headers": _headers({"src-off": "The event's offset: 8 bytes, big endian."}),
                    "payload": {"$ref": "./scores.schema.json"},
                    "bindings": {"kafka": {"key": {"type": "string", "description": "viewer_id"}}},
                },
                "deadLetter": {
                    "summary": "The original key and value, untouched.",
                    "contentType": "application/octet-stream",
                    "headers": _headers(
                        {
                            "dlq.topic": "Topic that the record came from.",
                            "dlq.partition": "Its partition, in decimal.",
                            "dlq.offset": "Its offset, in decimal.",
                            "dlq.reason": "A short reason, a colon, and a sentence; at most 512 bytes.",
                            "dlq.version": "Version of the service that rejected it.",
                        },
                        {
                            "dlq.cut": "Present when the value was too long to publish: how much of it is here.",
                            "dlq.cut.key": "Present when the key was: how much of it is here.",
                        },
                    ),
                    "payload": {"type": "string", "format": "binary"},
                },
            }
        },
    }


def _channel(address: str, text: str, message: str) -> dict[str, Any]:
    return {
        "address": address,
        "description": text,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
    }


def _headers(always: dict[str, str], sometimes: dict[str, str] | None = None) -> dict[str, Any]:
    texts = always | (sometimes or {})
    return {
        "type": "object",
        "required": list(always),
        "properties": {name: {"type": "string", "description": text} for name, text in texts.items()},
    }


def _flat(text: str) -> str:
    """Undo a docstring's line breaks, paragraphs kept."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _yaml(document: dict[str, Any]) -> str:
    import yaml  # of the dev extra: only whoever writes the documents needs it

    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)


if __name__ == "__main__":
    main()
