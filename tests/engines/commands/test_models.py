"""`tipstream-engine show`, and what every command has in common."""

import os
import signal
from pathlib import Path

import pytest

from engines.cli import main
from tests.engines import small_engines, small_models


def test_show_prints_the_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_models.write(tmp_path, small_models.artifact())
    assert main(["show", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "60 s, 600 s" in out
    assert "high from 0.1" in out
    assert "not judged" in out


def test_show_prints_what_an_engine_is_and_what_the_gate_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = small_engines.judged(small_engines.write(tmp_path), passed=False)
    assert main(["show", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "fp32 for Fake GPU (1 GiB, sm_90), TensorRT 8.6.1" in out
    assert "did not pass on 2022-02-02T00:00:00Z" in out


@pytest.mark.parametrize(("command", "words"), [("list", "There is no model below"), ("show", "There is no model in")])
def test_an_empty_folder_is_answered_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, words: str
) -> None:
    assert main([command, str(tmp_path)]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["train", "show", "build", "verify", "bench", "list", "keygen", "sign", "promote", "rollback", "gc"]
)
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as exited:
        main([command, "--help"])
    assert exited.value.code == 0
    assert f"usage: tipstream-engine {command}" in capsys.readouterr().out


def test_sigterm_ends_a_command_and_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = []

    def terminated(folder: Path) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            let_go.append(folder)

    monkeypatch.setattr("engines.commands.models.read_manifest", terminated)
    with pytest.raises(SystemExit) as ended:
        main(["show", str(tmp_path)])
    assert (ended.value.code, let_go) == (143, [tmp_path])
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_ctrl_c_ends_a_command_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("engines.commands.models.read_manifest", interrupt)
    assert main(["show", str(tmp_path)]) == 130
    assert capsys.readouterr().err == ""
