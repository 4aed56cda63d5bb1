"""What takes bytes from elsewhere, one function each: anything may be handed to it, and only words may come back.

A target raises when a promise is broken: an exception that is none of the product's own, a record without a fate, a row
that does not come back as it was written, bytes that reach a neighbour's row.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np

import engines
from engines.ladder import Answer
from engines.manifest import read_manifest
from engines.model import ModelError
from engines.prior import PriorModel
from features.catalogue import fingerprint
from features.events import Event, Reject, decode, encode
from features.packing import TABLES, RowBytes
from features.rows import PAIR_ROW, ROOM, VIEWER, RowVersionError
from replay.recording import Recording, RecordingError
from scorer.config import ConfigError, load
from scorer.contracts import Score
from scorer.score import Scoring, Timing, dead_letter, messages
from tests.features.harness import Record as Line
from tests.features.harness import Rows, engine_of, run_batch

Target = Callable[[bytes], None]

_BROKER_MS: Final = 1_750_000_000_000
_BROKERS_LIMIT: Final = 1_048_576  # bytes of a record that a broker takes by default
_DTYPES: Final = {"viewer": VIEWER, "pair": PAIR_ROW, "room": ROOM}
_SCRATCH: Final = Path(tempfile.mkdtemp(prefix="tipstream-fuzz-"))
REFERENCE_MODEL: Final = Path(engines.__file__).parent / "models/reference"
_PRIOR: Final = PriorModel(read_manifest(REFERENCE_MODEL))
_score: Final = msgspec.json.Decoder(Score).decode


class Taken(NamedTuple):
    """A record as the source hands it out."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


def decoder(data: bytes) -> None:
    """A record, key and value apart by a tab: an event, of a type of tomorrow, or a dead letter."""
    key, tab, value = data.partition(b"\t")
    taken = Taken(0, _BROKER_MS, key if tab else None, value)
    decoded = decode([taken.value], [taken.key])
    assert len(decoded.events) + len(decoded.rejects) + decoded.unknown == 1
    for reject in decoded.rejects:
        _letter(taken, reject)
    for event in decoded.events:
        assert decode([encode(event)], [taken.key]).events == [event]


def records(data: bytes) -> None:
    """Records, one a line, as for the decoder: those that are events build upon each other, and are scored."""
    taken = []
    for offset, line in enumerate(data.split(b"\n")):
        first, tab, rest = line.partition(b"\t")
        taken.append(Taken(offset, _BROKER_MS, first if tab else None, rest))
    decoded = decode([record.value for record in taken], [record.key for record in taken])
    assert len(decoded.events) + len(decoded.rejects) + decoded.unknown == len(taken)
    assert len(decoded.events) == len(decoded.index)
    if decoded.events:
        _computed(decoded.events, [taken[index] for index in decoded.index])


def _computed(events: list[Event], taken: list[Taken]) -> None:
    lines = run_batch(engine_of(1, 4), Rows(), [Line(event, 0, _BROKER_MS) for event in events])
    assert np.isfinite(lines.features).all()
    assert np.isfinite(lines.history).all()
    scored = [i for i, event in enumerate(events) if event.viewer_id is not None]
    if not scored:
        return
    answer = Answer(_PRIOR.infer(lines.features[scored], lines.history[scored]), "prior", _PRIOR)
    scoring = Scoring(answer, fingerprint(), "default", Timing(_BROKER_MS, _BROKER_MS, _BROKER_MS))
    cold = np.zeros(len(scored), np.bool_)
    published = messages(scoring, [events[i] for i in scored], [taken[i] for i in scored], cold, 50)
    for i, message in zip(scored, published, strict=True):
        assert message.value is not None
        score = _score(message.value)
        assert (score.event_id, score.viewer_id) == (events[i].event_id, events[i].viewer_id)


def letters(data: bytes) -> None:
    """A record that is none, and why: first its reason and detail, by a NUL each, then key and value."""
    reason, detail, key, value = (*data.split(b"\0", 3), b"", b"", b"", b"")[:4]
    if data.endswith(b"large"):  # now and then more than a broker takes
        key, value = (key[:64] * 100_000)[:100_000], (value[:64] * 100_000)[:600_000]
    record = Taken(1, 1, key or None, value or None)
    _letter(record, Reject(0, reason.decode("latin-1"), detail.decode(errors="replace")))


def _letter(record: Taken, reject: Reject) -> None:
    letter = dead_letter("events", 1, record, reject.reason, reject.detail)
    headers = {name: value.decode() for name, value in letter.headers}  # texts, all of them
    assert headers["dlq.offset"] == str(record.offset)
    assert headers["dlq.reason"].startswith(reject.reason[:100])
    assert len(letter.key or b"") + len(letter.value or b"") + sum(map(len, headers.values())) < _BROKERS_LIMIT
    for cut, kept, came in (("dlq.cut", letter.value, record.value), ("dlq.cut.key", letter.key, record.key)):
        assert kept == came or (cut in headers and kept is not None and came is not None and came.startswith(kept))


def rows(data: bytes) -> None:
    """A packed row, its table first: refused in words, or read into its own place and written the same again."""
    if not data:
        return
    table = TABLES[data[0] % len(TABLES)]
    read = np.zeros(3, _DTYPES[table])
    try:
        RowBytes(table, read).unpack([1], [data[1:]])
    except RowVersionError as error:
        _in_words(error)
        assert not read[[0, 2]].view(np.uint8).any()
        return
    assert not read[[0, 2]].view(np.uint8).any()
    (again,) = RowBytes(table, read).pack(np.array([1], np.int32))
    back = np.zeros(1, _DTYPES[table])
    RowBytes(table, back).unpack([0], [again])
    assert back[0].tobytes() == read[1].tobytes()


def stored(data: bytes) -> None:
    """Rows of a viewer, a pair and a room as Redis returns them, length first, and then events that build upon them."""
    blobs: list[bytes | None] = []
    for _ in TABLES:
        length = int.from_bytes(data[:2], "little")
        blobs.append(data[2 : 2 + length] or None)
        data = data[2 + length :]
    engine = engine_of(1, 4)
    kinds = ("comment", "gift", "gift_reversal", "paid_chat")
    events = [
        Event(
            f"e{i}", kinds[(byte & 3)], _BROKER_MS + byte * 600_000, "r", "s", viewer_id="v", gift_tx_id="t",
            amount_minor=byte, coin_type="paid",
        )
        for i, byte in enumerate(data[:8] or b"\0")
    ]  # fmt: skip
    batch = engine.prepare(events, [0] * len(events), [_BROKER_MS + 10**9] * len(events))
    engine.admit(batch.missing, [blobs[TABLES.index(key.table)] for key in batch.missing])
    engine.compute(batch)
    engine.changes(batch)


def configuration(data: bytes) -> None:
    """A configuration file, and variables after a NUL, one a line."""
    toml, _, variables = data.partition(b"\0")
    path = _SCRATCH / f"{os.getpid()}.toml"
    path.write_bytes(toml)
    pairs = [line.partition("=") for line in variables.decode("latin-1").split("\n")]
    try:
        config = load(path, {f"TIPSTREAM_{name}": value for name, _, value in pairs})
    except ConfigError as error:
        _in_words(error)
        return
    assert math.isfinite(config.drain_s)
    assert not config.redis.url.partition("?")[1]
    if config.kafka.password is not None:
        assert "***" in repr(config.kafka)


def manifest(data: bytes) -> None:
    """A model's manifest."""
    try:
        found = read_manifest(Path("anywhere"), fetch=lambda _: data)
        prior = PriorModel(found)
    except ModelError as error:
        _in_words(error)
        return
    assert prior.manifest.n_features == len(found.columns)
    json.loads(msgspec.json.encode(found))


def recording(data: bytes) -> None:
    """A recording: what its footer and its pages say may be anything."""
    path = _SCRATCH / f"{os.getpid()}.parquet"
    path.write_bytes(data)
    try:
        with Recording(path) as opened:
            for batch in opened.batches():
                assert batch
                json.dumps([opened.source, opened.metadata])
    except RecordingError as error:
        _in_words(error)


def _in_words(error: Exception) -> None:
    assert len(str(error)) > 20
    assert str(error)[-1] in ".?", f"no sentence: {error}"


TARGETS: Final[dict[str, Target]] = {
    target.__name__: target for target in (decoder, records, letters, rows, stored, configuration, manifest, recording)
}
