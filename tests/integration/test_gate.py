"""From a recording to what serves, by the commands that a person types: simulate, verify, promote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import engines
from engines.gate.verdict import read_verdict
from engines.manifest import Artifact
from engines.repository.keys import TRUSTED_FILE
from engines.repository.store import Repository
from features.catalogue import fingerprint

REFERENCE = Path(engines.__file__).parent / "models" / "reference"


def type_(folder: Path, module: str, *arguments: str | Path, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=folder,
        env={"PYTHONPATH": str(REFERENCE.parents[2]), "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(180)  # five processes, the kernel compiled in one of them
def test_a_recording_says_whether_a_model_may_serve(tmp_path: Path) -> None:
    made = "day.parquet", "--rate", "8", "--duration", "25m", "--viewers", "100", "--tips", "40"
    type_(tmp_path, "replay.cli", "simulate", *made)
    (tmp_path / "limits.toml").write_text("p99_us = 1e9\n")  # whatever else this machine does
    said = type_(
        tmp_path,
        "engines.cli",
        "verify",
        REFERENCE,
        "--traffic",
        "day.parquet",
        "--limits",
        "limits.toml",
        "--runs",
        "3",
    )
    version = said.split()[-1]
    assert said.endswith(f"Next: tipstream-engine promote {version}\n")
    type_(tmp_path, "engines.cli", "keygen")
    type_(tmp_path, "engines.cli", "promote", version, "--reason", "the first one")
    repository = Repository(tmp_path / "var" / "engines", tmp_path / "var" / "keys" / TRUSTED_FILE)
    assert repository.pointer().serving == version
    assert isinstance(repository.open(version, features=fingerprint()), Artifact)
    verdict = read_verdict(repository.folder(version))
    assert verdict is not None
    assert verdict.traffic.startswith("day.parquet (simulated)")
    assert verdict.accuracy.max_change == 0
    assert verdict.accuracy.tips >= 20
    type_(tmp_path, "engines.cli", "verify", version, "--traffic", "nothing.parquet", status=2)
