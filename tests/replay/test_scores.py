"""A score file is one file."""

from pathlib import Path

import pytest

from replay.recording import RecordingError
from replay.scores import Scores
from tests.replay.made_scores import scores


def test_a_folder_of_score_files_is_none(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    scores(tmp_path / "set" / "a.parquet", [0.1])
    scores(tmp_path / "set" / "b.parquet", [0.2])
    assert len(Scores.read(tmp_path / "set" / "a.parquet").table) == 1
    with pytest.raises(RecordingError, match=r"set is no Parquet file.*[^.]\.$"):
        Scores.read(tmp_path / "set")
