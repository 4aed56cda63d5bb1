"""Compiled code on disk: found again after a reinstall, never stale, and no trouble where nothing can be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

import features
from features.compiled import compiled
from features.kernel import walk

CHECK = """
import numpy as np
from features.rows import ROOM
from features.shares import sum_shares
rows = np.zeros(2, ROOM)
sum_shares(rows[:1], np.ones(1, np.int64), rows, np.ones(1, np.int64))
print(sum(sum_shares.stats.cache_hits.values()))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Copy the package to where it can be changed, without what is compiled already."""
    source = Path(features.__file__).parent
    shutil.copytree(source, tmp_path / "features", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "features"


def cache_hits(package: Path, cache: Path) -> int:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", CHECK]
    done = subprocess.run(command, cwd=package.parent, env=environment, capture_output=True, check=True, text=True)
    return int(done.stdout)


def test_a_reinstall_finds_it_again_and_a_changed_neighbour_does_not(package: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert cache_hits(package, cache) == 0
    for path in package.glob("*.py"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    assert cache_hits(package, cache) == 1

    rows = package / "rows.py"
    rows.write_text(rows.read_text().replace("MINUTE: Final = 60 * SECOND", "MINUTE: Final = 59 * SECOND"))
    assert cache_hits(package, cache) == 0


def test_without_a_place_for_a_cache_it_compiles_all_the_same() -> None:
    space: dict[str, object] = {}
    exec("def triple(n):\n    return 3 * n", space)  # no file that a cache could be kept beside
    triple: Any = compiled(cast("Any", space["triple"]))

    assert triple(14) == 42


def test_the_kernel_lets_other_threads_run() -> None:
    assert walk.targetoptions["nogil"]  # type: ignore[attr-defined]
