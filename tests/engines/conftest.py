"""What several modules of tests need."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: sockets allow no more than a hundred characters."""
    made = Path(tempfile.mkdtemp(prefix="fed-", dir="/tmp"))
    yield made
    shutil.rmtree(made)
