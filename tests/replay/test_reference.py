"""The reference model's command, on traffic far too short for a model: everything but the training runs."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the train extra: pip install 'tipstream[train]'")

from engines.train.dataset import read
from replay.reference import main

pytestmark = pytest.mark.train


def test_too_little_traffic_is_answered_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = tmp_path / "set"
    command = ["--hours", "0.25", "--rates", "6", "9", "--shards", str(shards), "--out", str(tmp_path / "model")]
    assert main(command) == 2
    assert "Record or simulate more traffic." in capsys.readouterr().err
    facts, rows = read(shards)
    assert "seeds from 11: 0.25 h at 6 and 9 events/s" in facts.source
    assert len(rows.weight) > 50
    assert not (tmp_path / "model").exists()
