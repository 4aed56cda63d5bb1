"""What is written comes back, in order, and a file that is no recording is refused in words."""

import fcntl
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.recording import ROW_GROUP, Record, Recording, RecordingError, Writer
from replay.scores import ScoreWriter
from tests.replay.made_scores import ABOUT

FULL = Record(b"k", b"v", 3, 17, [("row", b"1"), ("row", b"")], 5, 4)
BARE = Record(None, None, None, None, None, 6, None)
MANY = st.lists(
    st.builds(
        Record,
        st.none() | st.binary(max_size=8),
        st.none() | st.binary(max_size=8),
        st.none() | st.integers(0, 2**31 - 1),
        st.none() | st.integers(0, 2**63 - 1),
        st.none() | st.lists(st.tuples(st.text(max_size=4), st.binary(max_size=4)), max_size=3),
        st.integers(0, 2**62),
        st.none() | st.integers(0, 2**62),
    ),
    max_size=20,
)


def write(path: Path, records: Sequence[Record]) -> Path:
    with Writer(path, source="a test", metadata={"topic": "t"}) as writer:
        writer.write(records)
    return path


def read(path: Path, size: int = 8_192) -> list[Record]:
    with Recording(path) as recording:
        return [record for batch in recording.batches(size) for record in batch]


@given(MANY)
def test_every_record_comes_back(tmp_path_factory: pytest.TempPathFactory, records: list[Record]) -> None:
    assert read(write(tmp_path_factory.mktemp("recording") / "r.parquet", records)) == records


def test_source_and_metadata_come_back(tmp_path: Path) -> None:
    with Recording(write(tmp_path / "r.parquet", [FULL, BARE])) as recording:
        assert (recording.source, recording.metadata, recording.rows) == ("a test", {"topic": "t"}, 2)


def test_written_and_read_in_row_groups(tmp_path: Path) -> None:
    records = [BARE._replace(timestamp_ms=i) for i in range(ROW_GROUP + 5)]
    path = tmp_path / "r.parquet"
    with Writer(path, source="a test") as writer:
        for first in range(0, len(records), 1_000):
            writer.write(records[first : first + 1_000])
    assert pq.ParquetFile(path).num_row_groups == 2
    with Recording(path) as recording:
        sizes = [len(batch) for batch in recording.batches(10_000)]
    assert max(sizes) <= 10_000
    assert read(path, 777) == records


def test_what_was_read_does_not_stay_in_memory(tmp_path: Path) -> None:
    rng = random.Random(1)
    with Writer(tmp_path / "r.parquet", source="a test") as writer:
        for _ in range(4):
            writer.write([FULL._replace(value=rng.randbytes(99)) for _ in range(ROW_GROUP)])
    with Recording(tmp_path / "r.parquet") as recording:
        before = pa.total_allocated_bytes()
        held = [pa.total_allocated_bytes() - before for _ in recording.columns(8_192)]
    assert max(held) < 0.7 * (tmp_path / "r.parquet").stat().st_size


def test_nothing_is_left_of_a_recording_that_failed(tmp_path: Path) -> None:
    def interrupted() -> None:
        with Writer(tmp_path / "r.parquet", source="a test") as writer:
            writer.write([FULL])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "r.parquet", [FULL])
    with Writer(path, source="a test") as writer:
        writer.write([BARE])
        assert read(path) == [FULL]
    assert read(path) == [BARE]


def test_a_file_is_written_by_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    with Writer(path, source="a test") as first:
        first.write([FULL])
        with pytest.raises(RecordingError, match=r"r\.parquet is being written by another process: wait, or name"):
            Writer(path, source="a test")
        first.write([BARE])
    assert read(path) == [FULL, BARE]
    assert read(write(path, [BARE])) == [BARE]


def test_what_a_killed_writer_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "r.parquet.part").write_bytes(bytes(100_000))
    assert read(write(tmp_path / "r.parquet", [FULL])) == [FULL]
    assert [path.name for path in tmp_path.iterdir()] == ["r.parquet"]


def test_a_file_that_is_completed_as_the_next_is_begun_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next writer has opened what the first then gives its name."""
    path, lock = tmp_path / "r.parquet", fcntl.flock
    first = Writer(path, source="a test")
    first.write([FULL])

    def meanwhile_completed(file: int, how: int) -> None:
        monkeypatch.undo()
        first.__exit__(None, None, None)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", meanwhile_completed)
    with Writer(path, source="a test") as second:
        second.write([BARE])
        assert read(path) == [FULL]
    assert read(path) == [BARE]


def test_wrong_files_are_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    with pytest.raises(RecordingError, match="no file"):
        Recording(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(RecordingError, match=r"no Parquet file.*[^.]\.$"):
        Recording(path)
    pq.write_table(pa.table({"key": [1]}), path)
    with pytest.raises(RecordingError, match="no recording"):
        Recording(path)
    pq.write_table(pa.table({"key": [1]}).replace_schema_metadata({"tipstream.recording": "99"}), path)
    with pytest.raises(RecordingError, match="version 99"):
        Recording(path)
    pq.write_table(pa.table({"key": [1]}).replace_schema_metadata({"tipstream.recording": "1"}), path)
    with pytest.raises(RecordingError, match="other columns"):
        Recording(path)
    with pytest.raises(RecordingError, match="cannot be written"):
        Writer(tmp_path / "missing" / "r.parquet", source="a test")


def test_what_fails_at_the_very_end_leaves_nothing_either(tmp_path: Path) -> None:
    def ends_badly() -> None:
        with Writer(tmp_path / "r.parquet", source="a test") as writer:
            writer.write([FULL, BARE._replace(timestamp_ms="soon")])  # type: ignore[arg-type]

    with pytest.raises(pa.ArrowException):
        ends_badly()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["recording", "scores"])
def test_a_folder_is_no_place_for_a_file(tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path(), tmp_path):
        with pytest.raises(RecordingError, match="it is a folder"):
            Writer(path, source="a test") if module == "recording" else ScoreWriter(path, ABOUT)
    assert list(tmp_path.iterdir()) == []


_FULL_DISK = """
import os, resource, sys
from pathlib import Path
from replay.recording import Record, RecordingError, Writer
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
try:
    with Writer(Path(sys.argv[1]), source="a test") as writer:
        writer.write([Record(os.urandom(1000), None, None, None, None, 1, None)])
except RecordingError as error:
    sys.exit(str(error))
"""


def test_a_disk_that_takes_no_more_is_told_in_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FULL_DISK, str(tmp_path / "r.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "r.parquet cannot be written" in done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
