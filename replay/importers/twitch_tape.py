"""The Twitch tape: recorded chat of many broadcasts, with cheers, subscriptions, gifted subscriptions and raids.

| tape | event |
|---|---|
| chat | comment (`text_len`) |
| cheer | gift, paid, `amount_minor` = bits (1 bit = 1 US cent) |
| sub | subscribe, `months` = the tape's amount, `amount_minor` by tier; Prime and untold tiers cost nothing |
| giftsub_batch of n | gift, paid, `count` = n at the tier's price, the last frame of a combo |
| giftsub_one after its batch | the same frame once more (same `combo_id`, `gift_tx_id`, amounts): a gift counts once |
| giftsub_one alone | gift, paid, `count` = 1 |
| raid | raid (`viewers`), and an enter with `source` raid of the viewer who led it |

Every row with a viewer becomes exactly one event of a viewer, whose header `row` holds the row's number in the file, so
that scores can be joined back; a raid is told to the room besides, without that header. Rows of anonymous gifters and
known bots (viewer -1 and -2) have no viewer whom a score could be about: they are left out and counted. With `enters`,
a viewer's first event in a room is preceded by an implied enter, which has no `row` either.

The file is sorted by broadcast; events come out by time, rows of one second in the file's order.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.events import Event, encode
from replay.recording import UNREADABLE, Record, RecordingError, Writer, said

ROW_HEADER: Final = "row"
ANONYMOUS: Final = -1
BOT: Final = -2
COLUMNS: Final = (
    "event_time_ms", "room_id", "streamer_id", "viewer_id", "kind", "amount", "tier", "badge", "text_len"
)  # fmt: skip
_TEXTS: Final = ("kind", "tier", "badge")
_BADGES: Final = {"%": "subscriber", "$": "supporter", "+": "premium", "@": "moderator", "~": "broadcaster"}
_TIER: Final = {"1": 1, "2": 2, "3": 3}
_CENTS: Final = {"1": 499, "2": 999, "3": 2_499}
_BATCH_MS: Final = 120_000  # the gifts of a batch follow it within seconds; what comes later is a gift of its own
_CHUNK: Final = 32_768


class Imported(NamedTuple):
    """What became of the rows."""

    rows: int
    events: int  # written, those told to rooms and implied enters included
    anonymous: int  # rows left out
    bots: int  # rows left out
    repeated: int  # gifted subscriptions that their batch had counted


class _Batch(NamedTuple):
    """A gift of n subscriptions, and how many of them have yet to be named."""

    event: Event
    left: int
    until_ms: int


def rows(source: Path) -> int:
    """Return how many rows a tape has. Raises RecordingError."""
    return _opened(source).metadata.num_rows


def import_tape(
    source: Path, target: Path, *, enters: bool = False, advance: Callable[[int], None] = lambda _: None
) -> Imported:
    """Write the tape at `source` as a recording at `target`. `advance` is told how many rows each step has done.

    Raises RecordingError if `source` is no tape or `target` cannot be written. The file is sorted in memory: its nine
    columns take about 40 bytes a row.
    """
    columns = _read(source)
    if target.exists() and target.samefile(source):
        raise RecordingError(f"{target} is the tape itself: name another file for the recording.")
    viewer = columns["viewer_id"]
    translation = _Translation(enters)
    with Writer(target, source=f"twitch tape {source.name}") as writer:
        order = np.argsort(columns["event_time_ms"], kind="stable")
        for first in range(0, len(order), _CHUNK):
            rows = order[first : first + _CHUNK]
            known = rows[viewer[rows] >= 0]
            lists = [columns[name][known].tolist() for name in COLUMNS]
            records: list[Record] = []
            for row, values in zip(known.tolist(), zip(*lists, strict=True), strict=True):
                records += translation.records(row, values)
            writer.write(records)
            advance(len(rows))
    return Imported(
        rows=len(order),
        events=writer.rows,
        anonymous=int((viewer == ANONYMOUS).sum()),
        bots=int((viewer == BOT).sum()),
        repeated=translation.repeated,
    )


class _Translation:
    """Turns rows into records, in order of time."""

    def __init__(self, enters: bool) -> None:
        self.repeated = 0
        self._met: set[tuple[int, int]] | None = set() if enters else None
        self._batches: dict[tuple[int, int], _Batch] = {}  # by room and giver; bounded by the gifts of the tape
        self._sets: dict[str, tuple[str, ...] | None] = {}

    def records(self, row: int, values: tuple[Any, ...]) -> Iterator[Record]:
        """Yield one row's records; the one of its viewer carries the row's number."""
        time_ms, room, streamer, viewer, kind, amount, tier, badge, text_len = values
        if self._met is not None and kind != "raid" and (room, viewer) not in self._met:
            self._met.add((room, viewer))
            yield _record(Event(f"tape-{room}-{row}-enter", "enter", time_ms, str(room), str(streamer), str(viewer)))
        event = Event(f"tape-{room}-{row}", "", time_ms, str(room), str(streamer), str(viewer))
        event.badges = self._badges(badge)
        if kind == "chat":
            event.type, event.text_len = "comment", max(text_len, 0)
        elif kind == "cheer":
            _give(event, amount, 1)
        elif kind == "sub":
            event.type, event.amount_minor = "subscribe", _CENTS.get(tier, 0)
            event.tier, event.months = _TIER.get(tier), max(amount, 0)
        elif kind == "giftsub_batch":
            _give(event, _CENTS.get(tier, _CENTS["1"]), max(amount, 1))
            event.tier, event.combo_id, event.combo_end = _TIER.get(tier), event.event_id, True
            self._batches[room, viewer] = _Batch(event, max(amount, 1), time_ms + _BATCH_MS)
        elif kind == "giftsub_one":
            self._give_one(event, (room, viewer), tier)
        elif kind == "raid":
            event.type, event.source = "enter", "raid"
            told = Event(f"{event.event_id}-room", "raid", time_ms, str(room), str(streamer), viewers=max(amount, 0))
            yield _record(told)
        else:
            raise RecordingError(f"Row {row} of the tape has the kind {kind!r}, which no event stands for.")
        yield _record(event, row)

    def _give_one(self, event: Event, giver: tuple[int, int], tier: str) -> None:
        batch = self._batches.get(giver)
        if batch is None or event.event_time_ms > batch.until_ms:
            _give(event, _CENTS.get(tier, _CENTS["1"]), 1)
            event.tier = _TIER.get(tier)
            return
        counted = batch.event
        _give(event, counted.unit_price or 0, counted.count or 1)
        event.gift_tx_id, event.tier = counted.gift_tx_id, counted.tier
        event.combo_id, event.combo_end = counted.combo_id, True
        self.repeated += 1
        if batch.left == 1:
            del self._batches[giver]
        else:
            self._batches[giver] = batch._replace(left=batch.left - 1)

    def _badges(self, characters: str) -> tuple[str, ...] | None:
        if characters not in self._sets:
            self._sets[characters] = tuple(_BADGES[c] for c in characters if c in _BADGES) or None
        return self._sets[characters]


def _give(event: Event, unit_price: int, count: int) -> None:
    event.type, event.coin_type, event.gift_tx_id = "gift", "paid", event.event_id
    event.unit_price, event.count, event.amount_minor = unit_price, count, unit_price * count


def _record(event: Event, row: int | None = None) -> Record:
    headers = None if row is None else [(ROW_HEADER, b"%d" % row)]
    key = (event.viewer_id or event.room_id).encode()
    return Record(key, encode(event), None, None, headers, event.event_time_ms, event.event_time_ms)


def _opened(source: Path) -> pq.ParquetFile:
    try:
        tape = pq.ParquetFile(source)
    except FileNotFoundError as error:
        raise RecordingError(f"There is no file {source}.") from error
    except UNREADABLE as error:
        raise RecordingError(f"{source} is no Parquet file: {said(error)}.") from error
    missing = [name for name in COLUMNS if name not in tape.schema_arrow.names]
    if missing:
        raise RecordingError(f"{source} is no tape: it lacks the columns {', '.join(missing)}.")
    return tape


def _read(source: Path) -> dict[str, NDArray[Any]]:
    try:
        table = _opened(source).read(columns=list(COLUMNS))
        table.validate(full=True)
    except UNREADABLE as error:
        raise RecordingError(f"{source} is damaged, and cannot be read: {said(error)}.") from error
    for name in COLUMNS:
        kind, nulls = table[name].type, table[name].null_count
        fits, wanted = (_is_text, "texts") if name in _TEXTS else (pa.types.is_integer, "whole numbers")
        if nulls or not fits(kind):
            raise RecordingError(
                f"{source} is no tape: its column {name} must hold {wanted}, and holds {kind}, {nulls:,} of them null."
            )
    return {name: np.asarray(table[name].to_numpy()) for name in COLUMNS}


def _is_text(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.DictionaryType):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
