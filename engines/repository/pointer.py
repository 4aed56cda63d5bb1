"""Which version serves, and which one did before: one small file, replaced in one step."""

from __future__ import annotations

import getpass
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import msgspec

from engines import files
from engines.model import ModelError

POINTER_FILE: Final = "pointer.json"
_REMEMBERED: Final = 100

#: Differs whenever the pointer may have changed; compare with `!=` and nothing else.
Token = tuple[int, int, int]


class Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of the audit trail."""

    at: str
    """ISO 8601, UTC."""
    what: Literal["promote", "rollback"]
    serving: str
    by: str
    reason: str = ""


class Pointer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ids of versions; None while there is none."""

    serving: str | None = None
    previous: str | None = None
    changes: tuple[Change, ...] = ()
    """The latest ones, newest last."""

    def promoted(self, version: str, reason: str) -> Pointer:
        """Return the pointer with another version serving."""
        return Pointer(serving=version, previous=self.serving, changes=self._with("promote", version, reason))

    def rolled_back(self, reason: str) -> Pointer:
        """Return the pointer with the two versions exchanged; raises ModelError if there is no previous one."""
        if self.previous is None:
            raise ModelError("There is no previous version to go back to: nothing was promoted before the one serving.")
        return Pointer(
            serving=self.previous, previous=self.serving, changes=self._with("rollback", self.previous, reason)
        )

    def _with(self, what: Literal["promote", "rollback"], serving: str, reason: str) -> tuple[Change, ...]:
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        change = Change(at=at, what=what, serving=serving, by=_person(), reason=reason)
        return (*self.changes, change)[-_REMEMBERED:]


def read(root: Path) -> Pointer:
    """Return the pointer below `root`, an empty one where nothing was promoted yet; raises ModelError."""
    path = root / POINTER_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Pointer)
    except FileNotFoundError:
        return Pointer()
    except (OSError, ValueError) as error:  # no JSON, no UTF-8, or of another release
        raise ModelError(
            f"{path} cannot be read ({error}). Delete it and promote the version that is to serve."
        ) from error


def write(root: Path, pointer: Pointer) -> None:
    """Replace the pointer in one step; raises OSError, and the old one stands."""
    files.replace(root / POINTER_FILE, msgspec.json.format(msgspec.json.encode(pointer)) + b"\n")


def token(root: Path) -> Token:
    """Look whether the pointer changed, at the price of one stat; never raises."""
    try:
        found = (root / POINTER_FILE).stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def _person() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user that has no name
        return f"uid {os.getuid()}"
