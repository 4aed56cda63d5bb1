"""What is installed without extras is enough for the service and for every command that does not say otherwise."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {"cuda-python": "cuda", "nvidia-ml-py": "pynvml", "pyyaml": "yaml"}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[; ]", line, maxsplit=1)[0] for line in requirements}


def of_extras() -> list[str]:
    """Modules of the packages that only an extra brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = set().union(*(names(lines) for lines in project["optional-dependencies"].values()))
    return sorted(MODULES.get(name, name.replace("-", "_")) for name in extra - names(project["dependencies"]))


@pytest.mark.parametrize("module", ["scorer.cli", "scorer.service", "engines.cli", "engines.owner", "replay.cli"])
def test_it_loads_without_the_packages_of_any_extra(module: str) -> None:
    script = f"import sys; sys.modules.update(dict.fromkeys({of_extras()}, None)); import {module}"
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
