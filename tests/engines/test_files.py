"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from engines import files


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"one", b"", b"three"):
        files.replace(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.replace(path, b"old")
    script = (
        "import resource, sys; from pathlib import Path; from engines import files\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "files.replace(Path(sys.argv[1]), b'x' * 100)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert "File too large" in done.stderr
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_with_what_is_left_of_it(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        files.write(Path("/dev/full"), b"x")
    told = files.why(tmp_path / "not" / "there", caught.value)
    assert told.startswith("The disk is full: ")
    assert "`tipstream-engine gc`" in told
    assert "Permission denied" in files.why(tmp_path, OSError(errno.EACCES, "Permission denied"))


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "version" / "seal").mkdir(parents=True)
    with pytest.raises(IsADirectoryError) as caught:
        files.replace(tmp_path / "version" / "seal", b"x")
    assert files.why(tmp_path, caught.value).startswith(f"{tmp_path / 'version' / 'seal'} is a folder")
    with pytest.raises(IsADirectoryError) as caught, files.locked(tmp_path / "version"):
        pass
    assert files.why(tmp_path, caught.value).startswith(f"{tmp_path / 'version'} is a folder")


def test_a_lock_is_held_against_others_and_ends_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    script = (
        "import sys; from pathlib import Path; from engines import files\n"
        "with files.locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        with pytest.raises(BlockingIOError), files.locked(path, wait=False):
            pass
        process.kill()
        process.wait()
        with files.locked(path, wait=False):
            pass
