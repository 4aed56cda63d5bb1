"""No order of steps, neighbour, crash or full disk leaves the repository half changed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines import files
from engines.manifest import Artifact
from engines.model import ModelError
from engines.repository.keys import TRUSTED_FILE
from engines.repository.store import Repository
from tests.engines import small_engines, small_models
from tests.engines.repository.shop import Shop

FEATURES = small_models.FINGERPRINT


def test_a_build_under_way_is_not_cleared_away(shop: Shop) -> None:
    unfinished = shop.repository.root / ".0123.new-ab"
    unfinished.mkdir(parents=True)
    with files.locked(shop.repository.root / ".0123.lock"):
        shop.repository.collect(keep=0)
        assert unfinished.exists()
    shop.repository.collect(keep=0)
    assert not unfinished.exists()


def test_what_was_being_written_when_its_writer_was_killed_is_cleared_away(shop: Shop) -> None:
    root = shop.repository.root
    shop.repository.promote(shop.model(passed=True), shop.key)
    before = {path.name for path in root.iterdir()}
    pointer, timing = root / ".pointer.json.new-ab", root / "..timing-8.6.1-0123.new-ab"  # as `files.replace` has them
    seal = shop.repository.folder(shop.repository.versions()[0].id) / ".seal.new-ab"
    for left in (pointer, timing, seal):
        left.touch()
    with files.locked(root / ".timing-8.6.1-0123.lock"):
        shop.repository.collect(keep=0)
        assert not pointer.exists()
        assert not seal.exists()
        assert timing.exists(), "whoever writes it is at it"
    shop.repository.collect(keep=0)
    assert {path.name for path in root.iterdir()} == before | {".timing-8.6.1-0123.lock"}


def test_a_clearing_that_fails_half_way_does_not_say_that_nothing_happened(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = [shop.model() for _ in range(2)]
    rename = Path.rename
    renamed: list[str] = []

    def once(path: Path, target: Path) -> Path:
        if renamed:
            raise OSError(errno.EIO, "Input/output error")
        renamed.append(path.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", once)
    with pytest.raises(ModelError, match=r"What went is gone, and the rest is as it was: clear away again\.$"):
        shop.repository.collect(keep=0)
    assert [each.id for each in shop.repository.versions()] == [each for each in versions if each not in renamed]


def test_a_repository_that_is_not_there_is_not_made_by_asking_for_it(shop: Shop) -> None:
    missing = Repository(shop.folder / "mistyped", shop.folder / "keys" / TRUSTED_FILE)
    steps: tuple[Callable[[], object], ...] = (lambda: missing.collect(keep=0), missing.rollback)
    for step in steps:
        with pytest.raises(ModelError, match=r"There is no repository at .*mistyped\. Name yours with --repository"):
            step()
    assert not missing.root.exists()


def test_what_a_killed_clearing_left_hinders_no_later_one(shop: Shop) -> None:
    version = shop.model()
    left = shop.repository.root / f".gone-{version}"
    left.mkdir()
    (left / "model.onnx").touch()
    assert [gone.id for gone in shop.repository.collect(keep=0)] == [version]
    assert [path.name for path in shop.repository.root.iterdir()] == [".lock"]


STEPS = st.lists(
    st.tuples(st.sampled_from(["promote", "rollback", "collect", "add"]), st.integers(0, 3)), min_size=3, max_size=10
)


@given(STEPS)
@settings(max_examples=25, deadline=None)
def test_whatever_is_done_in_whatever_order_what_serves_can_be_opened(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    shop = Shop(tmp_path_factory.mktemp("shop"))
    sources = [small_models.write(shop.folder / str(i), small_models.artifact(value_scale=i + 1.0)) for i in range(4)]
    versions = [shop.repository.add(small_engines.judged(source)) for source in sources]
    serving: str | None = None
    previous: str | None = None
    for what, number in steps:
        version = versions[number]
        there = shop.repository.folder(version).is_dir()
        if what == "add":
            assert shop.repository.add(sources[number]) == version
        elif what == "collect":
            shop.repository.collect(keep=number)
        elif what == "rollback" and previous is not None:
            shop.repository.rollback()
            serving, previous = previous, serving
        elif what == "promote" and there and version != serving:
            shop.repository.promote(version, shop.key)
            serving, previous = version, serving
        else:
            with pytest.raises(ModelError):
                shop.repository.rollback() if what == "rollback" else shop.repository.promote(version, shop.key)
        pointer = shop.repository.pointer()
        assert (pointer.serving, pointer.previous) == (serving, previous)
        for each in filter(None, (serving, previous)):
            assert isinstance(shop.repository.open(each, features=FEATURES), Artifact)


def test_no_promotion_is_lost_however_many_promote_at_once(shop: Shop) -> None:
    versions = [shop.model(passed=True) for _ in range(4)]
    refused: list[str] = []

    def promote(version: str) -> None:
        for _ in range(12):
            try:
                Repository(shop.repository.root, shop.folder / "keys" / TRUSTED_FILE).promote(version, shop.key)
            except ModelError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=promote, args=(version,)) for version in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("serves already" in reason for reason in refused)
    pointer = shop.repository.pointer()
    assert len(pointer.changes) == 4 * 12 - len(refused)
    served = [change.serving for change in pointer.changes]
    assert all(before != after for before, after in pairwise(served))
    assert [pointer.previous, pointer.serving] == served[-2:]


_PROMOTER = """
import sys
from pathlib import Path
from engines.repository.keys import read_signing_key
from engines.repository.store import Repository
root, keys, *versions = sys.argv[1:]
repository = Repository(Path(root), Path(keys) / "trusted.pem")
key = read_signing_key(Path(keys) / "signing.key")
print("ready", flush=True)
while True:
    for version in versions:
        if repository.pointer().serving != version:
            repository.sign(version, key)
            repository.promote(version, key)
"""


def test_a_promoter_killed_at_any_moment_leaves_a_repository_that_serves(shop: Shop) -> None:
    versions = [shop.model(passed=True) for _ in range(2)]
    command = [sys.executable, "-c", _PROMOTER, str(shop.repository.root), str(shop.folder / "keys"), *versions]
    for turn in range(5):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.readline()
            seen = shop.repository.token()
            for _ in range(3 + 7 * turn):  # so many changes, and then at once
                while (token := shop.repository.token()) == seen:
                    assert process.poll() is None
                seen = token
            process.send_signal(signal.SIGKILL)
        pointer = shop.repository.pointer()
        assert pointer.serving in versions
        for version in versions:
            assert isinstance(shop.repository.open(version, features=FEATURES), Artifact)
        other = next(version for version in versions if version != pointer.serving)
        assert shop.repository.promote(other, shop.key).serving == other  # the dead one's lock is gone
    shop.repository.collect(keep=0)
    assert {path.name for path in shop.repository.root.iterdir()} >= {*versions, "pointer.json"}


_FULL = """
import resource, sys
from pathlib import Path
from engines.model import ModelError
from engines.repository.keys import read_signing_key
from engines.repository.store import Repository
root, keys, step, what = sys.argv[1:]
repository = Repository(Path(root), Path(keys) / "trusted.pem")
key = read_signing_key(Path(keys) / "signing.key")
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
try:
    repository.add(Path(what)) if step == "add" else repository.promote(what, key)
except ModelError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("step", ["add", "promote"])
def test_a_disk_that_takes_no_more_leaves_everything_as_it_was(shop: Shop, step: str) -> None:
    serving, other = shop.model(passed=True), shop.model(passed=True)
    shop.repository.promote(serving, shop.key)
    before = {path: path.stat().st_mtime_ns for path in shop.repository.root.rglob("*") if path.name != ".lock"}
    source = small_models.write(shop.folder / "third", small_models.artifact(value_scale=9.0))
    command = [sys.executable, "-c", _FULL, str(shop.repository.root), str(shop.folder / "keys"), step]
    done = subprocess.run(
        [*command, str(source) if step == "add" else other], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "cannot be written to (File too large)" in done.stderr
    assert "Nothing was changed." in done.stderr
    after = {path: path.stat().st_mtime_ns for path in shop.repository.root.rglob("*") if path.name != ".lock"}
    changed = {path for path in before if path.is_file() and before[path] != after.get(path)}
    assert not changed
    assert set(after) == set(before)
    assert shop.repository.pointer().serving == serving


def test_a_repository_that_cannot_be_written_says_so(shop: Shop, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        (tmp_path / "file").touch()
        root = tmp_path / "file" / "engines"
    else:
        root = Path("/proc/engines")
    source = small_models.write(tmp_path / "m", small_models.artifact())
    with pytest.raises(ModelError, match="Name a writable folder with --repository"):
        Repository(root).add(source)
