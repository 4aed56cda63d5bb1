"""The pointer: what promoting and going back do to it, whatever their order."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.model import ModelError
from engines.repository import pointer
from engines.repository.pointer import POINTER_FILE, Pointer

STEPS = st.lists(st.sampled_from(["a", "b", "c", "back"]), max_size=12)


@given(STEPS)
def test_the_two_versions_are_the_last_two_that_served(steps: list[str]) -> None:
    current, served = Pointer(), [None, None]
    for step in steps:
        if step == "back":
            if served[0] is None:
                with pytest.raises(ModelError, match="no previous version"):
                    current.rolled_back("")
                continue
            current, served = current.rolled_back("why"), served[::-1]
        else:
            current, served = current.promoted(step, "why"), [served[1], step]  # type: ignore[list-item]
        assert [current.previous, current.serving] == served
        assert current.changes[-1].serving == current.serving
        assert current.changes[-1].reason == "why"


def test_going_back_twice_changes_nothing_but_the_audit_trail() -> None:
    before = Pointer().promoted("a", "").promoted("b", "")
    after = before.rolled_back("").rolled_back("")
    assert (after.serving, after.previous) == (before.serving, before.previous)
    assert [change.what for change in after.changes] == ["promote", "promote", "rollback", "rollback"]


def test_the_audit_trail_keeps_the_latest_hundred() -> None:
    current = Pointer()
    for i in range(120):
        current = current.promoted(str(i), "")
    assert [change.serving for change in current.changes] == [str(i) for i in range(20, 120)]


def test_what_is_written_is_read_back_and_seen_by_the_token(tmp_path: Path) -> None:
    tokens = {pointer.token(tmp_path)}
    current = Pointer()
    assert pointer.read(tmp_path) == current
    for version in ("a", "b", "a", "b"):
        current = current.promoted(version, "")
        pointer.write(tmp_path, current)
        assert pointer.read(tmp_path) == current
        tokens.add(pointer.token(tmp_path))
    assert len(tokens) == 5
    assert [path.name for path in tmp_path.iterdir()] == [POINTER_FILE]


@pytest.mark.parametrize("content", [b'{"serving": 1}', b'{"serving": "\xff"}', b"{"])
def test_a_damaged_pointer_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / POINTER_FILE).write_bytes(content)
    with pytest.raises(ModelError, match="promote the version that is to serve"):
        pointer.read(tmp_path)
