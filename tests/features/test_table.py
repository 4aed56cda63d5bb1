"""A table of rows: slots are reused clean, growing keeps rows, the longest unused comes first."""

from __future__ import annotations

import numpy as np

from features.rows import ROOM
from features.table import Table


def test_a_slot_given_back_is_reused_and_clean() -> None:
    table: Table[str] = Table("room", ROOM, 4)
    slot = table.take("a", 0)
    table.rows[slot]["online"] = 7
    table.give_back(slot)

    assert table.take("b", 0) == slot
    assert table.rows[slot]["online"] == 0
    assert len(table) == 1


def test_growing_keeps_the_rows() -> None:
    table: Table[int] = Table("room", ROOM, 2)
    for number in range(9):
        slot = table.take(number, 0)
        table.rows[slot]["online"] = number + 1

    assert table.rows["online"][:9].tolist() == list(range(1, 10))
    (blob,) = table.pack(np.array([8], np.int32))
    table.unpack([table.take(9, 0)], [blob])
    assert table.rows[9]["online"] == 9


def test_the_longest_unused_comes_first() -> None:
    table: Table[str] = Table("room", ROOM, 64)
    slots = {name: table.take(name, 0) for name in "abcdef"}
    for sequence, name in enumerate("cafbde", start=2):
        table.touched[slots[name]] = sequence
    order = []
    while (oldest := table.oldest()) is not None:
        order.append(oldest[0])
        table.give_back(slots[oldest[0]])

    assert "".join(order) == "cafbde"


def test_a_row_used_since_it_was_listed_is_not_the_oldest() -> None:
    table: Table[str] = Table("room", ROOM, 256)
    for number in range(200):
        table.touched[table.take(f"room-{number}", 0)] = 10 + number
    assert table.oldest() == ("room-0", 10)
    table.touched[0] = 1_000

    assert table.oldest() == ("room-1", 11)
