"""`tipstream-engine bench`."""

from pathlib import Path

import pytest

from engines.cli import main
from engines.gate import speed
from engines.model import BUCKETS
from tests.engines import small_models


def test_models_are_timed_beside_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "_BLOCKS", 1)
    folders = [small_models.write(tmp_path / name, small_models.artifact()) for name in "ab"]
    where = ["--repository", str(tmp_path / "engines"), "--runs", "2"]
    assert main(["bench", *map(str, folders), *where]) == 0
    out = capsys.readouterr().out
    assert out.count("small 1 on the CPU (ONNX Runtime)") == 2 * len(BUCKETS)
    assert not (tmp_path / "engines").exists()
    assert main(["bench", "nothing", *where]) == 2
    assert "No version in" in capsys.readouterr().err
