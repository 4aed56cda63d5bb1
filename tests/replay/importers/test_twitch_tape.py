"""Rows of a tape become events one to one, and what tips tell is told once."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.events import Event, decode
from replay.importers.twitch_tape import COLUMNS, Imported, import_tape
from replay.recording import Record, Recording, RecordingError

TAPE = Path(__file__).resolve().parents[4] / "shared" / "tape" / "valid.parquet"
CHAT = {
    "event_time_ms": 5_000, "room_id": 7, "streamer_id": 2, "viewer_id": 30, "kind": "chat", "amount": 0, "tier": "",
    "badge": "", "text_len": 11,
}  # fmt: skip


def tape(path: Path, *rows: dict[str, Any]) -> Path:
    """A made-up tape: chat rows but for what each one says."""
    whole = [CHAT | row for row in rows]
    kinds = {"event_time_ms": pa.int64(), "room_id": pa.int32(), "streamer_id": pa.int16(), "viewer_id": pa.int32()}
    kinds |= {"amount": pa.int32(), "text_len": pa.int16()}
    words = pa.dictionary(pa.int32(), pa.string())
    columns = {
        name: pa.array([row[name] for row in whole], kinds.get(name, pa.string())).cast(kinds.get(name, words))
        for name in COLUMNS
    }
    pq.write_table(pa.table(columns), path)
    return path


def run(tmp_path: Path, *rows: dict[str, Any], enters: bool = False) -> tuple[Imported, list[Record], list[Event]]:
    target = tmp_path / "out.parquet"
    result = import_tape(tape(tmp_path / "in.parquet", *rows), target, enters=enters)
    with Recording(target) as recording:
        records = [record for batch in recording.batches() for record in batch]
    decoded = decode([record.value for record in records], [record.key for record in records])
    assert not decoded.rejects
    assert not decoded.unknown
    return result, records, decoded.events


def numbers(records: list[Record]) -> list[int | None]:
    return [int(record.headers[0][1]) if record.headers else None for record in records]


def test_chat_with_badges(tmp_path: Path) -> None:
    _, records, events = run(tmp_path, {"badge": "%$+@~"}, {"badge": ""})
    assert events[0] == Event(
        "tape-7-0", "comment", 5_000, "7", "2", "30", text_len=11,
        badges=("subscriber", "supporter", "premium", "moderator", "broadcaster"),
    )  # fmt: skip
    assert events[1].badges is None
    assert (records[0].key, records[0].timestamp_ms, records[0].event_time_ms) == (b"30", 5_000, 5_000)


def test_events_come_by_time_and_rows_of_one_second_in_the_files_order(tmp_path: Path) -> None:
    _, records, events = run(tmp_path, {"event_time_ms": 9_000}, {}, {}, {"event_time_ms": 1_000})
    assert numbers(records) == [3, 1, 2, 0]
    assert len({event.event_id for event in events}) == 4


def test_money(tmp_path: Path) -> None:
    _, _, (cheer, sub, prime, untold) = run(
        tmp_path,
        {"kind": "cheer", "amount": 500},
        {"kind": "sub", "amount": 14, "tier": "2"},
        {"kind": "sub", "amount": 3, "tier": "Prime"},
        {"kind": "sub", "amount": 1, "tier": ""},
    )
    assert (cheer.type, cheer.amount_minor, cheer.coin_type, cheer.combo_id) == ("gift", 500, "paid", None)
    assert (sub.type, sub.amount_minor, sub.tier, sub.months) == ("subscribe", 999, 2, 14)
    assert (prime.amount_minor, prime.tier, untold.amount_minor, untold.tier) == (0, None, 0, None)


def test_a_batch_counts_once_though_its_gifts_follow(tmp_path: Path) -> None:
    one = {"kind": "giftsub_one", "amount": 1, "tier": "1", "event_time_ms": 6_000}
    result, records, (batch, *named, later) = run(
        tmp_path, {"kind": "giftsub_batch", "amount": 2, "tier": "1"}, one, one, one
    )
    assert (batch.type, batch.count, batch.unit_price, batch.amount_minor) == ("gift", 2, 499, 998)
    for event in named:
        assert (event.gift_tx_id, event.combo_id, event.combo_end) == (batch.gift_tx_id, batch.combo_id, True)
        assert (event.count, event.amount_minor) == (batch.count, batch.amount_minor)
    assert (later.gift_tx_id, later.amount_minor) == (later.event_id, 499)  # the batch had only two
    assert result.repeated == 2
    assert numbers(records) == [0, 1, 2, 3]


def test_gifts_of_others_of_other_rooms_and_much_later_stand_alone(tmp_path: Path) -> None:
    one = {"kind": "giftsub_one", "tier": "3", "event_time_ms": 6_000}
    result, _, (batch, *alone) = run(
        tmp_path,
        {"kind": "giftsub_batch", "amount": 9, "tier": "3"},
        one | {"viewer_id": 31},
        one | {"room_id": 8},
        one | {"event_time_ms": 600_000},
    )
    assert result.repeated == 0
    assert [event.amount_minor for event in alone] == [2_499] * 3
    assert batch.gift_tx_id not in {event.gift_tx_id for event in alone}


def test_a_raid_is_told_to_the_room_and_its_leader_enters(tmp_path: Path) -> None:
    _, records, (raid, enter) = run(tmp_path, {"kind": "raid", "amount": 83})
    assert (raid.type, raid.viewers, raid.viewer_id, raid.room_id) == ("raid", 83, None, "7")
    assert (enter.type, enter.source, enter.viewer_id) == ("enter", "raid", "30")
    assert numbers(records) == [None, 0]
    assert records[0].key == b"7"


def test_rows_without_a_viewer_are_left_out_and_counted(tmp_path: Path) -> None:
    result, records, _ = run(tmp_path, {"viewer_id": -1}, {}, {"viewer_id": -2}, {"viewer_id": -2})
    assert numbers(records) == [1]
    assert result == Imported(rows=4, events=1, anonymous=1, bots=2, repeated=0)


def test_enters_are_implied_once_a_viewer_and_room(tmp_path: Path) -> None:
    _, records, events = run(tmp_path, {}, {}, {"room_id": 8}, {"viewer_id": 31}, enters=True)
    assert [event.type for event in events] == ["enter", "comment", "comment", "enter", "comment", "enter", "comment"]
    assert numbers(records) == [None, 0, 1, None, 2, None, 3]


def test_wrong_files_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no file"):
        import_tape(tmp_path / "in.parquet", tmp_path / "out.parquet")
    pq.write_table(pa.table({"room_id": [1]}), tmp_path / "in.parquet")
    with pytest.raises(RecordingError, match="lacks the columns event_time_ms, streamer_id"):
        import_tape(tmp_path / "in.parquet", tmp_path / "out.parquet")
    whole = pq.read_table(tape(tmp_path / "in.parquet", {}, {}))
    columns: list[tuple[str, Any, str]] = [
        ("viewer_id", pa.array(["a", "b"]), "viewer_id must hold whole numbers, and holds string, 0 of them null"),
        ("amount", pa.array([1, None]), "amount must hold whole numbers, and holds int64, 1 of them null"),
        ("tier", pa.array(["1", None]).dictionary_encode(), "tier must hold texts, and holds dictionary.*, 1 of them"),
        ("kind", pa.array([1, 2]), "kind must hold texts, and holds int64"),
    ]
    for name, values, words in columns:
        at = whole.schema.get_field_index(name)
        pq.write_table(whole.set_column(at, name, values), tmp_path / "in.parquet")
        with pytest.raises(RecordingError, match=words):
            import_tape(tmp_path / "in.parquet", tmp_path / "out.parquet")
    with pytest.raises(RecordingError, match="'dance'"):
        run(tmp_path, {"kind": "dance"})
    assert not (tmp_path / "out.parquet").exists()
    source = tape(tmp_path / "tape.parquet", {})
    kept = source.read_bytes()
    with pytest.raises(RecordingError, match="is the tape itself"):
        import_tape(source, source)
    assert source.read_bytes() == kept


def test_a_damaged_tape_is_told_in_words(tmp_path: Path) -> None:
    source = tape(tmp_path / "tape.parquet", *({} for _ in range(1_000)))
    content = bytearray(source.read_bytes())
    content[4:200] = bytes(196)
    source.write_bytes(content)
    with pytest.raises(RecordingError, match="is damaged"):
        import_tape(source, tmp_path / "out.parquet")


@pytest.mark.skipif(not TAPE.exists(), reason="the tape is not at ../shared/tape: it may not be redistributed")
@pytest.mark.timeout(180)
def test_the_tape_itself(tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    result = import_tape(TAPE, target)
    viewer = pq.read_table(TAPE, columns=["viewer_id"])["viewer_id"].to_numpy()
    rows: Counter[int] = Counter()
    events = 0
    with Recording(target) as recording:
        for batch in recording.batches():
            decoded = decode([record.value for record in batch], [record.key for record in batch])
            assert not decoded.rejects
            rows.update(number for number in numbers(batch) if number is not None)
            events += len(decoded.events)
    assert events == result.events
    assert set(rows.values()) == {1}
    assert np.array_equal(np.sort(np.fromiter(rows, np.int64)), np.flatnonzero(viewer >= 0))
