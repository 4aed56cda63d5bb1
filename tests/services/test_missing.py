"""A missing service skips on a laptop and fails in CI."""

from __future__ import annotations

import pytest

from tests.services.missing import require


def test_nothing_missing() -> None:
    require(None)


def test_a_laptop_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no java"):
        require("no java")


def test_ci_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no java"):
        require("no java")
