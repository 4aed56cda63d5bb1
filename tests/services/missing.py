"""What to do without a service: skip with a reason on a laptop, fail where CI promises that it is there."""

from __future__ import annotations

import os

import pytest


def require(reason: str | None) -> None:
    """Do nothing when `reason` is None; else skip the test for it, or fail it if the variable CI says true."""
    if reason is None:
        return
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"{reason} (CI=true: this must not be skipped)", pytrace=False)
    pytest.skip(reason)
