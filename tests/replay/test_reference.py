"""The reference model's command, on traffic far too short for a model: everything but the training runs."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the train extra: pip install 'tipstream[train]'")

from engines.train.dataset import read
from replay.reference import main

# Two processes compile the kernel and simulate: minutes on a busy machine.
pytestmark = [pytest.mark.train, pytest.mark.timeout(300)]


def test_too_little_traffic_is_answered_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards, out = tmp_path / "set", tmp_path / "model"
    size = ["--worlds", "2", "--hours", "0.25", "--rate", "32"]
    assert main([*size, "--shards", str(shards), "--out", str(out)]) == 2
    assert "Record or simulate more traffic." in capsys.readouterr().err
    facts, parts = read(shards)
    assert "seeds 11 to 12: 2 x 0.25 h at 32 events/s" in facts.source
    assert all(len(rows.weight) > 20 for rows in parts)
    assert not out.exists()
