"""Cutting recordings: record time never goes back, and one partition alone is cut where it is among others."""

from pathlib import Path

import pytest

from replay.recording import Record, Recording, RecordingError, Writer
from replay.taking import ROOM_MS, Replayed, Taken, Taker, partitions_of

T0 = 1_750_000_000_000  # a multiple of ROOM_MS
YEAR_MS = 365 * 86_400_000


def recorded(path: Path, *rows: tuple[int | None, int]) -> Recording:
    """Rows of (partition, milliseconds after T0)."""
    with Writer(path, source="made by hand") as writer:
        writer.write([Record(b"k", b"%d" % i, at, None, None, T0 + ms, None) for i, (at, ms) in enumerate(rows)])
    return Recording(path)


def values(taken: list[Taken], partition: int) -> list[tuple[int, bytes | None]]:
    return [
        (each.interval - T0 // ROOM_MS, record.value)
        for each in taken
        for record in each.records.get(partition, ())
        if isinstance(record, Replayed)
    ]


def test_record_time_never_goes_back(tmp_path: Path) -> None:
    with recorded(tmp_path / "r", (0, 0), (1, 1_200), (0, 200), (1, 1_400), (0, 1_600)) as recording:
        taken = list(Taker(partitions=1, size=10, alone=False).take(recording))
    assert [each.interval - T0 // ROOM_MS for each in taken] == [0, 2, 3]
    assert values(taken, 0) == [(0, b"0"), (2, b"2"), (3, b"4")]
    assert values(taken, 1) == [(2, b"1"), (2, b"3")]


def test_one_partition_is_cut_as_it_is_among_others(tmp_path: Path) -> None:
    with recorded(tmp_path / "r", (0, 0), (1, 1_200), (0, 200), (1, 1_400), (0, 1_600)) as recording:
        every = list(Taker(partitions=1, size=2, alone=False).take(recording))
        for partition in (0, 1):
            mine = list(Taker(partitions=1, size=10, alone=False, only=partition).take(recording))
            assert values(mine, partition) == values(every, partition)
            assert all(each.records.keys() == {partition} for each in mine)


def test_record_time_goes_on_from_recording_to_recording(tmp_path: Path) -> None:
    with recorded(tmp_path / "a", (0, 2_000)) as early, recorded(tmp_path / "b", (1, 0)) as late:
        first = Taker(partitions=1, size=10, alone=False)
        list(first.take(early))
        taken = list(Taker(partitions=1, size=10, alone=False, since=first.time).take(late))
    assert values(taken, 1) == [(4, b"0")]


def test_one_clock_that_is_far_ahead_does_not_stop_record_time(tmp_path: Path) -> None:
    with recorded(tmp_path / "r", (0, 0), (1, 1_200), (0, YEAR_MS), (1, 1_400), (0, 2_000)) as recording:
        taken = list(Taker(partitions=1, size=10, alone=False).take(recording))
    assert [each.interval - T0 // ROOM_MS for each in taken] == [0, 2, 3, 4]


def test_record_time_passes_over_hours_without_a_record(tmp_path: Path) -> None:
    with recorded(tmp_path / "r", (0, 0), (1, YEAR_MS), (0, YEAR_MS + 10), (0, YEAR_MS + 600)) as recording:
        taken = list(Taker(partitions=1, size=10, alone=False).take(recording))
    assert [each.interval - T0 // ROOM_MS for each in taken] == [0, 1, YEAR_MS // ROOM_MS, YEAR_MS // ROOM_MS + 1]


def test_wherever_a_recording_is_split_record_time_is_the_same(tmp_path: Path) -> None:
    rows = [(0, ms) for ms in (0, 600, YEAR_MS, 1_200, YEAR_MS, YEAR_MS + 9, 1_800, YEAR_MS + 1_200, 7 * YEAR_MS)]
    with recorded(tmp_path / "r", *rows) as recording:
        whole = [each.interval for each in Taker(partitions=1, size=1, alone=False).take(recording)]
    assert len(set(whole)) > 4
    for at in range(1, len(rows)):
        with recorded(tmp_path / "a", *rows[:at]) as early, recorded(tmp_path / "b", *rows[at:]) as late:
            first = Taker(partitions=1, size=1, alone=False)
            found = [each.interval for each in first.take(early)]
            second = Taker(partitions=1, size=1, alone=False, since=first.time)
            assert found + [each.interval for each in second.take(late)] == whole


def test_partitions_are_those_that_were_read_and_those_to_choose_from(tmp_path: Path) -> None:
    with recorded(tmp_path / "a", (3, 0), (5, 1)) as recording:
        assert partitions_of(recording, 8) == {3, 5}
    with recorded(tmp_path / "b", (3, 0), (None, 1)) as recording:
        assert partitions_of(recording, 2) == {0, 1, 3}
    with recorded(tmp_path / "c") as recording:
        assert partitions_of(recording, 1) == {0}


@pytest.mark.parametrize(("name", "value"), [("p_tip", b"likely"), ("p_tip", None), ("row", b"first")])
def test_a_header_of_a_name_of_ours_that_says_something_else_is_refused_in_words(
    tmp_path: Path, name: str, value: bytes
) -> None:
    with Writer(tmp_path / "r", source="made by hand") as writer:
        writer.write([Record(b"k", b"v", 0, None, [(name, value)], T0, None)])
    with Recording(tmp_path / "r") as recording, pytest.raises(RecordingError, match=f"header `{name}` is no"):
        list(Taker(partitions=1, size=10, alone=True).take(recording))
