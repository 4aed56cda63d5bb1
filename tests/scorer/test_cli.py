"""The command line, run as people run it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from features.catalogue import FEATURES, fingerprint


def tipstream(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TIPSTREAM_")}
    return subprocess.run(
        [sys.executable, "-m", "scorer.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        env=clean | variables,
        check=False,
    )


def test_version() -> None:
    done = tipstream("version")
    assert (done.returncode, done.stdout.strip()) == (0, version("tipstream"))


def test_help_teaches_with_examples() -> None:
    done = tipstream("--help")
    assert done.returncode == 0
    for example in ("tipstream demo", "tipstream check --config", "tipstream serve --workers 4", "TIPSTREAM_KAFKA__"):
        assert example in done.stdout
    serve = tipstream("serve", "--help")
    assert "N workers need N times the memory" in " ".join(serve.stdout.split())
    assert "--worker " not in serve.stdout


def test_explain_is_the_replay_tool_s() -> None:
    done = tipstream("explain", "--help")
    assert done.returncode == 0
    assert "tipstream-replay explain e6-10840 --events events.parquet" in done.stdout
    missing = tipstream("explain", "e1", "--events", "none.parquet", "--scores", "none.parquet")
    assert (missing.returncode, missing.stderr) == (2, "tipstream-replay: There is no file none.parquet.\n")


def test_features_prints_the_whole_catalogue() -> None:
    done = tipstream("features")
    assert done.returncode == 0
    assert fingerprint() in done.stdout
    for feature in FEATURES:
        assert feature.name in done.stdout


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        ((), {}, ["COMMAND"]),
        (("sevre",), {}, ["sevre"]),
        (("serve", "--workers", "0"), {}, ["--workers", "1 or more"]),
        (("serve", "--workers", "two"), {}, ["--workers", "two"]),
        (("serve", "--config", "none.toml"), {}, ["none.toml"]),
        (("check",), {"TIPSTREAM_KAFKA__GRUP": "x"}, ["TIPSTREAM_KAFKA__GRUP", "TIPSTREAM_KAFKA__GROUP"]),
        (("serve", "--workers", "2"), {"TIPSTREAM_REDIS__URL": "http://x"}, ["redis.url"]),
    ],
)
def test_what_is_asked_wrongly_is_refused_in_words(
    arguments: tuple[str, ...], variables: dict[str, str], words: list[str]
) -> None:
    done = tipstream(*arguments, **variables)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = tipstream("serve", TIPSTREAM_MODEL__PATH=str(tmp_path), TIPSTREAM_SERVER__PORT="0")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(tmp_path) in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m scorer.cli features | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=50, check=False)
    assert done.stderr == ""


def test_a_worker_whose_supervisor_is_gone_does_not_start() -> None:
    done = tipstream("serve", "--worker", "0", "1")  # 1 it may be, in a container
    assert done.returncode == 1
