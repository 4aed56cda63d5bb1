"""What must hold after a case, whatever happened in it: recomputed from the input topic alone.

An uninterrupted pass over the input gives every row and every score. Then

* each event that is to be scored has a score that survives the `src-off` rule, in order, with the values of that pass
  (`lost`, `extra`, `unequal`); scores given up for their deadline are told apart by the members' own count;
* scores that were published more than once say the same each time (`contradictory`; `identical` ones are equal to the
  last digit);
* each reject has a dead letter with its key and value (`undelivered`);
* Redis holds the rows of that pass, byte for byte, and no others (`miscounted`);
* what those bytes mean is what the slow oracle, which shares no code with the kernel, makes of the same input
  (`misread`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from aiokafka.structs import ConsumerRecord
from numpy.typing import NDArray

from engines.cpu import OnnxModel
from features.catalogue import FEATURES, fingerprint
from features.engine import FeatureEngine
from features.events import Event, decode
from features.kernel import FRESH
from scorer.contracts import Score
from scorer.service import REFERENCE_MODEL
from tests.faults.stored import Stored
from tests.faults.topics import stream
from tests.features.harness import Record, Rows, run_batch
from tests.features.oracle import Oracle
from tests.integration.member import Setup, source_offset

_BATCH: Final = 256
_CLOSE: Final = 1e-6  # float32 sums differ in their last bits between batch sizes
_PROBES: Final = 60  # rows of each partition whose meaning is looked at
_ORACLE: Final = 20_000  # records of a partition, above which the oracle would take minutes
_RECENT: Final = 50_000  # scores of a partition that repeats are compared with
_SAME: Final = ("event_id", "viewer_id", "cold_start", "tier", "expected_value_minor", "p_tip")

Place = tuple[int, int]  # partition, offset


class Verdict(msgspec.Struct):
    """What was found."""

    records: int = 0
    scored: int = 0
    rejected: int = 0
    repeated: int = 0
    """Scores in the topic that the `src-off` rule drops."""
    identical: int = 0
    """Of these, how many are equal to the first to the last digit."""
    furthest: float = 0.0
    """The largest difference of a probability from the first, among the others; where rooms are mixed, of any size."""
    rows: int = 0
    probed: int = 0
    lost: list[Place] = []
    extra: list[Place] = []
    unequal: list[tuple[Place, str]] = []
    contradictory: list[tuple[Place, str]] = []
    undelivered: list[Place] = []
    miscounted: list[str] = []
    misread: list[str] = []

    def told(self) -> dict[str, Any]:
        """Counts, and the first few of each kind of trouble."""
        return {
            name: value if isinstance(value, int | float) else {"count": len(value), "first": value[:5]}
            for name, value in msgspec.structs.asdict(self).items()
        }

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong, lost scores aside: those may have been shed."""
        return not (
            self.extra or self.unequal or self.contradictory or self.undelivered or self.miscounted or self.misread
        )


class Wanted(msgspec.Struct):
    """What one uninterrupted pass over a partition gives."""

    rows: Rows
    lines: list[Record]
    """Its events; only as many as the oracle may be asked about."""
    offsets: NDArray[np.int64]
    """(n,) of the events that are to be scored, ascending."""
    p_tip: NDArray[np.float32]
    """(n, H)"""
    rejected: dict[int, ConsumerRecord]
    """By offset."""


async def verify(setup: Setup, stored: Stored, *, exact_scores: bool, seed: int) -> Verdict:
    """Compare everything; `exact_scores` where no room is watched from two partitions."""
    verdict = Verdict()
    model = OnnxModel.load(REFERENCE_MODEL, features=fingerprint())
    for partition in range(setup.partitions):
        wanted = await _pass(verdict, setup, partition, model)
        await _compare_scores(verdict, setup, partition, wanted, exact=exact_scores)
        await _compare_letters(verdict, setup, partition, wanted.rejected)
        held = await stored.rows(partition)
        _compare_rows(verdict, partition, wanted.rows, held)
        if 0 < len(wanted.lines) <= _ORACLE:
            _compare_meaning(verdict, partition, wanted.lines, held, random.Random(seed + partition))
    return verdict


async def _pass(verdict: Verdict, setup: Setup, partition: int, model: OnnxModel) -> Wanted:
    kafka = setup.config.kafka
    engine = FeatureEngine()
    engine.open(partition)
    wanted = Wanted(Rows(), [], np.empty(0, np.int64), np.empty((0, 2), np.float32), {})
    offsets, p_tip = [wanted.offsets], [wanted.p_tip]
    async for records in stream(kafka.bootstrap, kafka.events_topic, partition):
        verdict.records += len(records)
        decoded = decode([r.value for r in records], [r.key for r in records])
        verdict.rejected += len(decoded.rejects)
        wanted.rejected |= {records[reject.index].offset: records[reject.index] for reject in decoded.rejects}
        at = [records[i] for i in decoded.index]
        lines = [Record(event, partition, r.timestamp) for event, r in zip(decoded.events, at, strict=True)]
        wanted.lines += lines[: _ORACLE + 1 - len(wanted.lines)]
        for start in range(0, len(lines), _BATCH):
            some = lines[start : start + _BATCH]
            computed = run_batch(engine, wanted.rows, some)
            rows = [
                i
                for i, (line, how) in enumerate(zip(some, computed.status, strict=True))
                if how == FRESH and line.event.viewer_id is not None and line.event.type != "erase"
            ]
            if rows:
                offsets.append(np.array([at[start + i].offset for i in rows], np.int64))
                p_tip.append(model.infer(computed.features[rows], computed.history[rows]).p_tip)
    wanted.offsets, wanted.p_tip = np.concatenate(offsets), np.concatenate(p_tip)
    return wanted


async def _compare_scores(verdict: Verdict, setup: Setup, partition: int, wanted: Wanted, *, exact: bool) -> None:
    """Apply the `src-off` rule and see what a reader gets."""
    kafka, read = setup.config.kafka, msgspec.json.Decoder(Score).decode
    seen = np.zeros(len(wanted.offsets), np.bool_)
    recent: dict[int, Score] = {}
    highest = -1
    async for records in stream(kafka.bootstrap, kafka.scores_topic, partition):
        for record in records:
            offset, score = source_offset(record), read(record.value)
            row = int(np.searchsorted(wanted.offsets, offset))
            if row == len(seen) or wanted.offsets[row] != offset:
                verdict.extra.append((partition, offset))
                continue
            should = wanted.p_tip[row]
            if exact and score.mode == "full" and not np.allclose(list(score.p_tip.values()), should, 0, _CLOSE):
                verdict.unequal.append(((partition, offset), f"{score.p_tip} instead of {should}"))
            if offset <= highest:
                _compare_repeat(verdict, (partition, offset), recent.get(offset), score, exact=exact)
                continue
            seen[row] = True
            recent[offset] = score
            highest = offset
        for offset in list(recent)[:-_RECENT]:
            del recent[offset]
    verdict.scored += int(seen.sum())
    verdict.lost += [(partition, int(offset)) for offset in wanted.offsets[~seen]]


def _compare_repeat(verdict: Verdict, place: Place, first: Score | None, again: Score, *, exact: bool) -> None:
    verdict.repeated += 1
    if first is None or (exact and first.mode != again.mode):
        return
    differ = [name for name in _SAME if getattr(first, name) != getattr(again, name)]
    verdict.identical += not differ
    apart = max(abs(first.p_tip[at] - again.p_tip[at]) for at in first.p_tip)
    verdict.furthest = max(verdict.furthest, apart)
    if exact and (apart > _CLOSE or {"event_id", "viewer_id", "cold_start"} & set(differ)):
        verdict.contradictory.append((place, f"{differ}: {first} then {again}"))


async def _compare_letters(verdict: Verdict, setup: Setup, partition: int, rejected: dict[int, ConsumerRecord]) -> None:
    missing = dict(rejected)
    async for letters in stream(setup.config.kafka.bootstrap, setup.config.kafka.dlq_topic, partition):
        for letter in letters:
            headers = dict(letter.headers)
            offset = int(headers["dlq.offset"])
            if offset not in rejected:
                verdict.extra.append((partition, offset))
            elif letter.key == rejected[offset].key and _untouched(letter, rejected[offset]):
                missing.pop(offset, None)
    verdict.undelivered += [(partition, offset) for offset in missing]


def _untouched(letter: ConsumerRecord, record: ConsumerRecord) -> bool:
    if "dlq.cut" in dict(letter.headers):
        return bool(record.value.startswith(letter.value))
    return bool(letter.value == record.value)


def _compare_rows(verdict: Verdict, partition: int, wanted: Rows, held: Rows) -> None:
    verdict.rows += len(held.rooms) + sum(map(len, held.viewers.values()))
    for kind, ours, theirs in (("viewer", held.viewers, wanted.viewers), ("room", held.rooms, wanted.rooms)):
        for key in ours.keys() | theirs.keys():
            if ours.get(key) != theirs.get(key):
                state = "is missing" if key not in ours else "should be gone" if key not in theirs else "differs"
                verdict.miscounted.append(f"partition {partition}: {kind} {key[1]} {state}")


def _compare_meaning(verdict: Verdict, partition: int, lines: Sequence[Record], held: Rows, rng: random.Random) -> None:
    """Ask the stored rows and the oracle the same questions: the features of events yet to come."""
    oracle = Oracle()
    pairs: dict[tuple[str, str], str] = {}
    for line in lines:
        oracle.see(*line, look=False)
        if line.event.viewer_id is not None:
            pairs[line.event.viewer_id, line.event.streamer_id] = line.event.room_id
    engine = FeatureEngine(capacity=256)
    engine.open(partition)
    last_ms = max(line.broker_ms for line in lines)
    for number, ((viewer, streamer), room) in enumerate(rng.sample(sorted(pairs.items()), min(_PROBES, len(pairs)))):
        event = Event(f"probe-{number}", "comment", last_ms + number, room, streamer, viewer_id=viewer)
        probe = Record(event, partition, last_ms + number)
        says = run_batch(engine, held, [probe]).features[0]
        should = oracle.see(*probe).features
        verdict.probed += 1
        for column in np.flatnonzero(says.view(np.uint32) != should.view(np.uint32)):
            text = f"{FEATURES[column].name} is {says[column]} instead of {should[column]}"
            verdict.misread.append(f"partition {partition}, {viewer} with {streamer} in {room}: {text}")
