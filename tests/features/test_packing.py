"""Packed rows: back to the same row whatever it holds, refused in words when they cannot be read."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.packing import LAYOUTS, TABLES, RowBytes
from features.rows import FREE_GIFT, PAIR_ROW, ROOM, ROW_VERSION, VIEWER, RowVersionError
from tests.features.harness import Rows, engine_of, run_batch
from tests.features.traffic import random_stream

DTYPES = {"viewer": VIEWER, "pair": PAIR_ROW, "room": ROOM}
COUNTERS = {"viewer": "seen", "pair": "gifts"}
TIMES = ("first", "last", "visit_start", "visit_tip", "last_tip", "raid_time", "online_time")  # at most the clock
REMEMBERED = ("ids", "past_", "gift_key", "gift_room", "gift_minor", "gift_visit", "gift_time")


def random_rows(table: str, seed: int, n: int) -> np.ndarray[Any, np.dtype[Any]]:
    """Return rows with anything in any field, but nothing remembered that the counter says is not there."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(n, DTYPES[table])
    for row in rows:
        for name in DTYPES[table].names or ():
            field = row[name]
            info = np.iinfo(field.dtype)
            wide = rng.integers(info.min, info.max, field.shape, field.dtype, endpoint=True)
            small = rng.integers(0, 100, field.shape).astype(field.dtype)
            row[name] = np.where(rng.random(field.shape) < 0.7, 0, np.where(rng.random(field.shape) < 0.7, small, wide))
        row["clock"] = rng.choice((1, 1_700_000_000_000, 2**41))
        for name in set(TIMES) & set(DTYPES[table].names or ()):
            row[name] %= row["clock"] + 1
        if table == "viewer":
            row["past_type"] %= FREE_GIFT + 1
        if table in COUNTERS:
            held = row[COUNTERS[table]] = rng.choice((0, 1, 5, 31, 32, 1_000))
            for name in DTYPES[table].names or ():
                if name.startswith(REMEMBERED):
                    row[name][held:] = 0
    return rows


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("seed", range(5))
def test_any_row_comes_back(table: str, seed: int) -> None:
    rows = random_rows(table, seed, 20)
    back = np.zeros(40, DTYPES[table])
    order = np.array([3, 0, 19, 7, 7], np.int32)

    RowBytes(table, back).unpack(range(10, 30), RowBytes(table, rows).pack(np.arange(20, dtype=np.int32)))

    assert np.array_equal(back[10:30], rows)
    assert not back[:10].view(np.uint8).any()
    assert not back[30:].view(np.uint8).any()
    assert RowBytes(table, back).pack(order + 10) == RowBytes(table, rows).pack(order)


def test_an_empty_row_takes_next_to_nothing() -> None:
    for table, dtype in DTYPES.items():
        (blob,) = RowBytes(table, np.zeros(1, dtype)).pack(np.zeros(1, np.int32))
        assert len(blob) < 20


def test_a_light_viewer_takes_a_few_hundred_bytes() -> None:
    rows = Rows()
    run_batch(engine_of(2), rows, random_stream(3, size=300, viewers=100, skew=1.3))
    sizes = [sum(map(len, fields.values())) for fields in rows.viewers.values()]

    assert np.mean(sizes) < 400


@pytest.mark.parametrize("table", TABLES)
def test_another_version_is_refused_in_words(table: str) -> None:
    rows = RowBytes(table, np.zeros(1, DTYPES[table]))
    (blob,) = rows.pack(np.zeros(1, np.int32))
    newer = bytes([blob[0] + (1 << 2)]) + blob[1:]

    with pytest.raises(
        RowVersionError,
        match=f"A stored {table} row has version {ROW_VERSION + 1}; this build reads version {ROW_VERSION}. Run",
    ):
        rows.unpack([0], [newer])


def test_a_row_of_another_table_is_refused_in_words() -> None:
    (room,) = RowBytes("room", np.zeros(1, ROOM)).pack(np.zeros(1, np.int32))

    with pytest.raises(RowVersionError, match="A stored viewer row is marked as a room row"):
        RowBytes("viewer", np.zeros(1, VIEWER)).unpack([0], [room])
    with pytest.raises(RowVersionError, match="A stored room row is empty"):
        RowBytes("room", np.zeros(1, ROOM)).unpack([0], [b""])


@pytest.mark.parametrize("table", TABLES)
def test_every_cut_is_noticed(table: str) -> None:
    rows = random_rows(table, 1, 1)
    (blob,) = RowBytes(table, rows).pack(np.zeros(1, np.int32))
    for end in range(1, len(blob)):
        with pytest.raises(RowVersionError, match=f"{table} row of {end} bytes is damaged"):
            RowBytes(table, np.zeros(1, DTYPES[table])).unpack([0], [blob[:end]])
    with pytest.raises(RowVersionError, match="damaged"):
        RowBytes(table, np.zeros(1, DTYPES[table])).unpack([0], [blob + b"\0"])


def test_a_row_with_a_type_that_there_is_not_is_refused() -> None:
    """The kernel looks types up in a table, and compiled code would read on behind its end."""
    rows = np.zeros(1, VIEWER)
    rows["seen"] = 1
    rows["past_type"][0, 0] = FREE_GIFT + 1
    (blob,) = RowBytes("viewer", rows).pack(np.zeros(1, np.int32))
    with pytest.raises(RowVersionError, match=r"viewer row of .* damaged: it remembers an event of a type"):
        RowBytes("viewer", np.zeros(1, VIEWER)).unpack([0], [blob])


@pytest.mark.parametrize("table", TABLES)
def test_readable_rows_are_read_beside_one_that_is_not(table: str) -> None:
    rows = random_rows(table, 1, 2)
    good, other = RowBytes(table, rows).pack(np.arange(2, dtype=np.int32))
    read = np.zeros(4, DTYPES[table])

    refused = RowBytes(table, read).unpack_readable([3, 1, 2], [good, other[:-1], other])

    assert list(refused) == [1]
    assert "damaged" in str(refused[1])
    assert [read[slot].tobytes() for slot in (3, 2)] == [rows[0].tobytes(), rows[1].tobytes()]
    assert not read[:2].view(np.uint8).any()


@settings(suppress_health_check=list(HealthCheck), deadline=None)
@given(st.sampled_from(TABLES), st.binary(max_size=3_000))
def test_no_bytes_do_harm(table: str, data: bytes) -> None:
    blob = bytes([LAYOUTS[table].head]) + data
    rows = np.zeros(3, DTYPES[table])
    with suppress(RowVersionError):
        RowBytes(table, rows).unpack([1], [blob])
    assert not rows[[0, 2]].view(np.uint8).any()
