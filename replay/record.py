"""Recording a topic, or a range of it, so that an interrupted recording goes on where it stopped.

Beside the recording, a folder `NAME.parts` collects what was read: `plan.json` (topic and offsets to read, fixed at the
start) and small recordings of one partition each, named by the offsets that they cover. When all are there, they are
merged by Kafka timestamp, each partition keeping its own order, and the folder goes.
"""

import contextlib
import heapq
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec

from engines import files
from replay.kafka import Range, Reader
from replay.recording import Record, Recording, RecordingError, Writer, writing
from scorer.config import Kafka

PLAN: Final = "plan.json"
_LOCK: Final = "lock"
_SUFFIX: Final = ".parquet"
_PART: Final = 16_384  # records of one partition
_HELD: Final = 131_072  # records of all of them, at most
_MERGED: Final = 8_192  # records written at a time


class _Plan(msgspec.Struct, frozen=True):
    topic: str
    ranges: dict[int, tuple[int, int]]


class _Time(msgspec.Struct):
    event_time_ms: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None  # what the column holds


_time = msgspec.json.Decoder(_Time).decode


class Progress(NamedTuple):
    """What a recording has to do, and has done: offsets, which compaction may have left without records."""

    total: int
    done: int


async def record(
    config: Kafka,
    topic: str,
    target: Path,
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> int:
    """Record `topic` from Kafka timestamp `since_ms` (default: all) to `until_ms` (default: what it holds now).

    Returns the number of records. A recording that was interrupted goes on, with the range that it began with. Raises
    RecordingError and KafkaAccessError.
    """
    parts = target.with_name(target.name + ".parts")
    with _own(parts):
        plan = _resume(parts, topic)
        async with Reader(config, topic) as reader:
            if plan is None:
                found = await reader.ranges(since_ms, until_ms)
                plan = _Plan(topic, {number: (span.first, span.end) for number, span in found.items()})
                with writing(parts):
                    files.replace(parts / PLAN, msgspec.json.encode(plan))
            await _collect(reader, parts, plan, report)
        n = _merge(parts, plan, target)
        with writing(parts):
            for number in plan.ranges:
                for *_, path in _parts(parts, number):
                    path.unlink()
            (parts / PLAN).unlink()  # last: parts without it would be taken for those of the next recording
        shutil.rmtree(parts, ignore_errors=True)
    return n


@contextlib.contextmanager
def _own(parts: Path) -> Iterator[None]:
    """Make the folder and keep other processes out of it; nothing of it stays if it holds nothing."""
    with contextlib.ExitStack() as stack:
        with writing(parts):
            parts.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(files.locked(parts / _LOCK, wait=False))
            except BlockingIOError as error:
                raise RecordingError(f"Another process records into {parts}: wait, or name another file.") from error
        try:
            yield
        finally:
            if not (parts / PLAN).exists():
                with contextlib.suppress(OSError):
                    (parts / _LOCK).unlink()
                    parts.rmdir()


async def _collect(reader: Reader, parts: Path, plan: _Plan, report: Callable[[Progress], None]) -> None:
    """Write down, part by part, what is not there yet."""
    reached = {number: _reached(parts, number, span[0]) for number, span in plan.ranges.items()}
    total = sum(end - first for first, end in plan.ranges.values())
    progress = Progress(total, sum(reached[number] - span[0] for number, span in plan.ranges.items()))
    report(progress)
    held: dict[int, list[Record]] = {number: [] for number in plan.ranges}
    now = dict(reached)

    def write(number: int) -> None:
        _write_part(parts, number, reached[number], now[number], held[number])
        reached[number], held[number] = now[number], []

    async for number, following, records in reader.read(
        {number: Range(reached[number], span[1]) for number, span in plan.ranges.items()}
    ):
        held[number] += map(_timed, records)
        progress = progress._replace(done=progress.done + following - now[number])
        now[number] = following
        report(progress)
        if len(held[number]) >= _PART or following >= plan.ranges[number][1]:
            write(number)
        elif sum(map(len, held.values())) >= _HELD:
            write(max(held, key=lambda each: len(held[each])))


def _resume(parts: Path, topic: str) -> _Plan | None:
    if not (parts / PLAN).exists():
        return None
    try:
        plan = msgspec.json.decode((parts / PLAN).read_bytes(), type=_Plan)
    except (OSError, ValueError) as error:  # no JSON, or no UTF-8
        raise RecordingError(f"{parts / PLAN} cannot be read ({error}): remove {parts} and record again.") from error
    if plan.topic != topic:
        raise RecordingError(
            f"{parts} holds the beginning of a recording of {plan.topic}, not of {topic}: finish that one, remove the "
            "folder, or choose another name."
        )
    return plan


def _parts(parts: Path, number: int) -> list[tuple[int, int, Path]]:
    """Return (first, end, path) of a partition's parts in order; a part that was not written to its end has no name."""
    found = []
    for path in parts.glob(f"{number}-*{_SUFFIX}"):
        _, first, end = path.name.removesuffix(_SUFFIX).split("-")
        found.append((int(first), int(end), path))
    return sorted(found)


def _reached(parts: Path, number: int, first: int) -> int:
    return max((end for _, end, _ in _parts(parts, number)), default=first)


def _write_part(parts: Path, number: int, first: int, end: int, records: list[Record]) -> None:
    with Writer(parts / f"{number}-{first}-{end}{_SUFFIX}", source="part") as writer:
        writer.write(records)


def _merge(parts: Path, plan: _Plan, target: Path) -> int:
    size = max(1, min(_MERGED, _HELD // max(1, len(plan.ranges))))
    streams = [_in_time(_read(parts, number, size)) for number in plan.ranges]
    with Writer(target, source=f"topic {plan.topic}", metadata={"topic": plan.topic}) as writer:
        held: list[Record] = []
        for _, _, record in heapq.merge(*streams, key=lambda item: item[:2]):
            held.append(record)
            if len(held) >= _MERGED:
                writer.write(held)
                held = []
        writer.write(held)
    return writer.rows


def _read(parts: Path, number: int, size: int) -> Iterator[Record]:
    for _, _, path in _parts(parts, number):
        with Recording(path) as part:
            for batch in part.batches(size):
                yield from batch


def _in_time(records: Iterable[Record]) -> Iterator[tuple[int, int, Record]]:
    """Pair records with a time that never goes back, so that a merge keeps the partition's order."""
    latest = 0
    for record in records:
        latest = max(latest, record.timestamp_ms)
        yield latest, record.partition or 0, record


def _timed(record: Record) -> Record:
    try:
        return record._replace(event_time_ms=_time(record.value or b"").event_time_ms)
    except (msgspec.DecodeError, RecursionError):
        return record
