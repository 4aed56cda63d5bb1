"""What partitions tell each other cannot always be written down, and that is said in words."""

from pathlib import Path

import pytest

from replay.recording import RecordingError
from replay.shares import Telling
from tests.replay.full_disk import full_disk


async def test_a_disk_that_takes_no_more_is_told_in_words(tmp_path: Path) -> None:
    told = Telling(tmp_path / "0.parquet")
    await told.publish_shares({0: {f"room {i}": bytes([i]) * i for i in range(100)}})
    with full_disk(), pytest.raises(RecordingError, match=r"0\.parquet cannot be written: .*[^.]\.$"):
        await told.close()


def test_a_missing_folder_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="cannot be written"):
        Telling(tmp_path / "missing" / "0.parquet")
