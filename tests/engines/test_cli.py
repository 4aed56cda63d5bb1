"""`tipstream-engine list` and `show`."""

from pathlib import Path

import pytest

from engines.cli import main
from tests.engines import small_models


def test_list_shows_every_model_below_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small_models.artifact()
    for name in ("a", "b/c"):
        small_models.write(tmp_path / name, model)
    assert main(["list", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count(model.manifest.sha256[:8]) == 2


def test_show_prints_the_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_models.write(tmp_path, small_models.artifact())
    assert main(["show", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "60 s, 600 s" in out
    assert "high from 0.1" in out


@pytest.mark.parametrize(("command", "words"), [("list", "There is no model below"), ("show", "There is no model in")])
def test_an_empty_folder_is_answered_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, words: str
) -> None:
    assert main([command, str(tmp_path)]) == 2
    assert words in capsys.readouterr().err
