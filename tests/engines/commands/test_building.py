"""`tipstream-engine verify` and `build`, as a person types them."""

from __future__ import annotations

import errno
import importlib.util
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import pytest

from engines.cli import main
from engines.commands import building
from engines.gate.verdict import read_verdict
from engines.repository.keys import TRUSTED_FILE, generate
from engines.repository.store import Repository
from engines.tensorrt.plan import Settings
from tests.engines import small_engines, small_models
from tests.engines.gate import made

PATIENT = "p99_us = 1e9\nslower = 1e9\n"  # what else runs on the machine is not what is tested
NO_GPU = importlib.util.find_spec("tensorrt") is None


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """Prepare a folder with a model, traffic, and limits that a busy machine keeps."""
    small_models.write(tmp_path / "model", small_models.artifact())
    made.shards(tmp_path / "set")
    (tmp_path / "patient.toml").write_text(PATIENT)
    return tmp_path


def verify(bench: Path, *arguments: str | Path) -> int:
    given = ["verify", *arguments, "--traffic", bench / "set", "--repository", bench / "engines", "--runs", "3"]
    return main([str(argument) for argument in given])


def test_a_model_that_passes_is_told_of_and_can_be_promoted(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(bench, bench / "model", "--limits", bench / "patient.toml", "--out", bench / "report") == 0
    said = capsys.readouterr().out
    assert "passed the gate. " in said
    assert not (bench / "model" / "verdict.json").exists()  # somebody else's folder
    assert "|dp| beside rows of NaN" in said
    assert (bench / "report" / "report.md").read_text().startswith("# Passed: small 1")
    assert "<svg" in (bench / "report" / "report.html").read_text()
    keys = generate(bench / "keys")
    repository = Repository(bench / "engines", bench / "keys" / TRUSTED_FILE)
    serving = repository.promote(said.split()[-1], keys).serving
    assert serving is not None

    small_models.write(bench / "newer", small_models.artifact(value_scale=7.0))
    assert verify(bench, bench / "newer", "--limits", bench / "patient.toml") == 0  # against the one that serves
    newer = repository.folder(repository.add(bench / "newer"))
    verdict = read_verdict(newer)
    assert verdict is not None
    assert verdict.against.startswith(serving)
    assert (newer / "report.html").exists()


def test_a_report_that_has_no_place_is_told_before_anything_is_judged(
    bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bench / "file").touch()
    assert verify(bench, bench / "model", "--out", bench / "file" / "report") == 2
    assert "Name another --out" in capsys.readouterr().err
    [version] = Repository(bench / "engines").versions()
    assert version.verdict is None


def test_a_verdict_that_has_no_place_is_told_before_anything_is_judged(
    bench: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository(bench / "engines")
    version = repository.add(bench / "model")

    def read_only(dir: Path) -> IO[bytes]:  # root may write anywhere
        if dir == repository.folder(version):
            raise OSError(errno.EROFS, "Read-only file system")
        return TemporaryFile(dir=dir)

    monkeypatch.setattr(building, "TemporaryFile", read_only)
    assert verify(bench, version, "--out", bench / "report") == 2
    said = capsys.readouterr()
    assert f"{version} cannot be written to (Read-only file system). Name a writable folder" in said.err
    assert "|dp|" not in said.out


def test_a_verdict_outlives_a_screen_that_takes_no_words(
    bench: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*arguments: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(building, "_print", closed)
    assert verify(bench, bench / "model", "--limits", bench / "patient.toml") == 2
    assert "Broken pipe" in capsys.readouterr().err
    [version] = Repository(bench / "engines").versions()
    assert version.verdict is not None
    assert version.verdict.passed


def test_one_that_does_not_pass_gives_status_1(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bench / "strict.toml").write_text("p99_us = 0.001\n")
    assert verify(bench, bench / "model", "--limits", bench / "strict.toml") == 1
    assert "did not pass the gate: 1 of " in capsys.readouterr().out
    [version] = Repository(bench / "engines").versions()
    assert version.verdict is not None
    assert not version.verdict.passed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "No version in"),
        (["model", "--against", "serving"], "has no serving version yet"),
        (["model", "--against", "model"], "No version in"),
        (["model", "--limits", "none.toml"], "holds no limits of the gate"),
    ],
)
def test_what_cannot_be_judged_gives_status_2(
    bench: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(bench)
    assert verify(bench, *arguments) == 2
    assert words in capsys.readouterr().err


def test_lower_precision_is_held_against_the_fp32_engine_of_the_same_model(tmp_path: Path) -> None:
    buckets = (1, 8)
    half = small_engines.write(tmp_path, Settings(precision="fp16", buckets=buckets))
    assert building._exact(Repository(tmp_path), half) is None
    small_engines.write(tmp_path, Settings(buckets=buckets), model=small_models.artifact(value_scale=3.0))
    assert building._exact(Repository(tmp_path), half) is None  # of another model
    exact = small_engines.write(tmp_path, Settings(buckets=buckets))
    assert building._exact(Repository(tmp_path), half) == exact
    assert building._exact(Repository(tmp_path), small_models.write(tmp_path / "m", small_models.artifact())) is None


@pytest.mark.skipif(not NO_GPU, reason="TensorRT is here")
def test_a_build_without_tensorrt_says_what_to_install(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(bench / "model"), "--repository", str(bench / "engines")]) == 2
    assert "TensorRT engines need tensorrt, which is not installed" in capsys.readouterr().err


def test_int8_wants_traffic_to_calibrate_on(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(bench / "model"), "--precision", "int8"]) == 2
    assert "INT8 must be calibrated: name a labelled set with --traffic" in capsys.readouterr().err


@pytest.mark.parametrize("sizes", ["8,1", "0,1", "1,1"])
def test_sizes_must_ascend(bench: Path, capsys: pytest.CaptureFixture[str], sizes: str) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["build", str(bench / "model"), "--buckets", sizes])
    assert exited.value.code == 2
    assert "must be whole numbers above 0, ascending" in capsys.readouterr().err
