"""The published contracts say what the code does."""

import json
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml

from features.events import EVENT_TYPES, ROOM_LEVEL, decode
from scorer import contracts
from scorer.contracts import Score

EVENT: dict[str, Any] = {
    "event_id": "e1",
    "type": "comment",
    "event_time_ms": 1_700_000_000_000,
    "room_id": "r1",
    "streamer_id": "s1",
    "viewer_id": "v1",
}
SCORE: dict[str, Any] = {
    **EVENT,
    "session_id": None,
    "scored_time_ms": 1_700_000_000_009,
    "expires_at_ms": 1_700_000_060_000,
    "p_tip": {"60": 0.01, "600": 0.02},
    "expected_value_minor": 12,
    "tier": "low",
    "cold_start": False,
    "mode": "full",
    "model": "reference:1",
    "engine": "cpu:1",
    "features": "0123456789abcdef",
    "arm": "main",
    "late": False,
    "latency_us": {"wait": -300, "features": 20, "inference": 900},
}
GIFT = {"type": "gift", "gift_tx_id": "t", "amount_minor": 5, "coin_type": "paid"}


@pytest.mark.parametrize("name", contracts.documents())
def test_committed_documents_are_current(name: str) -> None:
    committed = (contracts.FOLDER / name).read_text("utf-8")
    assert committed == contracts.documents()[name], "run: python -m scorer.contracts"


@pytest.mark.parametrize("name", ["events.schema.json", "scores.schema.json"])
def test_schemas_are_schemas(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(contracts.documents()[name]))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"unheard_of": 1},
        {"viewer_id": None},
        {"viewer_id": "x" * 65},
        {"event_id": ""},
        {"event_id": 7},
        {"event_time_ms": 0},
        {"event_time_ms": "now"},
        {"count": -1},
        {"count": 100_001},
        {"badges": ["moderator"]},
        {"badges": "moderator"},
        {"type": "raid", "viewer_id": None, "viewers": 10},
        GIFT,
        GIFT | {"gift_tx_id": None},
        GIFT | {"coin_type": "gold"},
        GIFT | {"amount_minor": None},
        {"type": "gift_reversal"},
        {"type": "gift_reversal", "gift_tx_id": "t"},
        {"type": "paid_chat"},
        {"type": "paid_chat", "amount_minor": 100},
        *({"type": kind, "gift_tx_id": "t", "amount_minor": 1, "coin_type": "bag"} for kind in EVENT_TYPES),
    ],
)
def test_event_schema_accepts_what_decode_accepts(change: dict[str, Any]) -> None:
    event = EVENT | change
    validator = jsonschema.Draft202012Validator(json.loads(contracts.documents()["events.schema.json"]))
    viewer = event["viewer_id"]
    decoded = decode([json.dumps(event).encode()], [viewer.encode() if viewer else None])
    assert validator.is_valid(event) == (not decoded.rejects), decoded.rejects


def test_room_level_events_need_no_viewer() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(contracts.documents()["events.schema.json"]))
    without = {key: value for key, value in EVENT.items() if key != "viewer_id"}
    assert {kind for kind in EVENT_TYPES if validator.is_valid(without | {"type": kind})} == ROOM_LEVEL


def test_score_struct_and_schema_agree() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(contracts.documents()["scores.schema.json"]))
    validator.validate(SCORE)
    score = msgspec.json.decode(json.dumps(SCORE), type=Score)
    assert msgspec.to_builtins(score) == SCORE
    faults: list[dict[str, Any]] = [
        {"mode": "guess"},
        {"p_tip": {"60": 1.5}},
        {"p_tip": {}},
        {"expected_value_minor": -1},
    ]
    for broken in faults:
        assert not validator.is_valid(SCORE | broken)
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(json.dumps(SCORE | broken), type=Score)


def test_asyncapi_references_resolve() -> None:
    document = yaml.safe_load(contracts.documents()["asyncapi.yaml"])
    for channel in document["channels"].values():
        for message in channel["messages"].values():
            assert message["$ref"].removeprefix("#/components/messages/") in document["components"]["messages"]
    for message in document["components"]["messages"].values():
        if reference := message["payload"].get("$ref"):
            assert (contracts.FOLDER / reference).is_file()
