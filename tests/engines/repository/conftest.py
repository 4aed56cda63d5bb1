from pathlib import Path

import pytest

from tests.engines.repository.shop import Shop


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """An empty repository with keys."""
    return Shop(tmp_path)
