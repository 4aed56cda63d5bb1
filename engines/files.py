"""Files that are there whole or not at all, whatever ends the process that writes them, and locks that end with it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk; a crash meanwhile may leave it cut short."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, content: bytes) -> None:
    """Put a file in the place of another in one step: readers see the old one or the new one; raises OSError."""
    beside = path.with_name(f".{path.name}.new-{secrets.token_hex(4)}")
    try:
        write(beside, content)
        beside.replace(path)
        sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def sync(folder: Path) -> None:
    """Wait until a folder's names are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock against other processes and threads; it ends with the process, however that ends.

    Without `wait`, raises BlockingIOError where somebody else holds it.
    """
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def why(folder: Path, error: OSError) -> str:
    """Return why nothing could be written to a folder, as a sentence that says what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free / 2**20
        return (
            f"The disk is full: {folder} has {free:.0f} MiB left. Free some space (`tipstream-engine gc`) or name "
            "another folder with --repository."
        )
    if error.errno == errno.EISDIR:  # `folder` may well be writable; a file that is replaced is the second name
        return f"{error.filename2 or error.filename} is a folder, where a file belongs. Move it away."
    return f"{folder} cannot be written to ({error.strerror}). Name a writable folder with --repository."
