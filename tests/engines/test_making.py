"""An engine where there was none: built, judged, promoted, once."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines import files, making
from engines.child import converse
from engines.making import _GATE, Order, make
from engines.manifest import MANIFEST_FILE, Artifact
from engines.model import ModelError
from engines.repository.keys import SIGNING_FILE, TRUSTED_FILE, generate, read_signing_key
from engines.repository.store import Repository
from engines.tensorrt.plan import Settings
from tests.engines import small_engines, small_models

# In the place of `tipstream-engine`: verify VERSION --traffic FILE --repository ROOT
GATE = """
import sys
from pathlib import Path
from tests.engines import small_engines
_, command, version, _, traffic, _, root = sys.argv
assert command == "verify"
if traffic == "crash":
    raise ImportError("libarrow.so is not there")
if traffic == "unreadable":
    print("no traffic there", file=sys.stderr)
    raise SystemExit(2)
small_engines.judged(Path(root) / version, passed=traffic == "good")
raise SystemExit(0 if traffic == "good" else 1)
"""
COMMAND = (sys.executable, "-c", GATE)


class Builds:
    """Stands in for the builder, which needs a GPU."""

    def __init__(self) -> None:
        self.asked: list[Settings] = []

    def __call__(self, artifact: Artifact, settings: Settings, root: Path) -> Path:
        self.asked.append(settings)
        return small_engines.write(root, settings, model=artifact)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Builds:
    made = Builds()
    monkeypatch.setattr(making, "build", made)
    return made


def order(folder: Path, traffic: str) -> tuple[Order, Repository]:
    keys = folder / "keys"
    if not keys.exists():
        generate(keys)
    made = Order(small_models.artifact(), "fp16", Path(traffic), keys / SIGNING_FILE)
    return made, Repository(folder / "versions", keys / TRUSTED_FILE)


def test_what_passes_the_gate_is_promoted_and_can_be_opened(builds: Builds, tmp_path: Path) -> None:
    wanted, repository = order(tmp_path, "good")
    make(wanted, repository, None, gate=COMMAND)
    serving = repository.pointer().serving
    assert serving is not None
    assert [settings.precision for settings in builds.asked] == ["fp16"]
    repository.open(serving, features=small_models.FINGERPRINT)


def test_what_another_process_made_meanwhile_is_enough(builds: Builds, tmp_path: Path) -> None:
    wanted, repository = order(tmp_path, "good")
    make(wanted, repository, None, gate=COMMAND)
    make(wanted, repository, None, gate=COMMAND)
    assert len(builds.asked) == 1


@pytest.mark.parametrize(
    ("traffic", "words"),
    [
        ("bad", "did not pass the gate: .*report.md says how far off"),
        ("unreadable", "could not judge .*no traffic there"),
        ("crash", "could not judge .*ended with status 1 .*libarrow.so is not there"),
    ],
)
def test_what_does_not_pass_serves_nobody(builds: Builds, tmp_path: Path, traffic: str, words: str) -> None:
    wanted, repository = order(tmp_path, traffic)
    with pytest.raises(ModelError, match=words):
        make(wanted, repository, None, gate=COMMAND)
    assert repository.pointer().serving is None


def test_what_another_process_found_wanting_meanwhile_is_not_judged_again(
    builds: Builds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, repository = order(tmp_path, "bad")
    later = wanted._replace(traffic=Path("good"))
    locked = files.locked

    @contextlib.contextmanager
    def waited(path: Path) -> Iterator[None]:
        monkeypatch.setattr(files, "locked", locked)
        with pytest.raises(ModelError, match="did not pass the gate: "):
            make(wanted, repository, None, gate=COMMAND)
        with locked(path):
            yield

    monkeypatch.setattr(files, "locked", waited)
    with pytest.raises(ModelError, match="did not pass the gate: "):
        make(later, repository, None, gate=COMMAND)
    make(later, repository, None, gate=COMMAND)
    assert repository.pointer().serving is not None


def test_a_version_of_another_model_is_not_replaced(builds: Builds, tmp_path: Path) -> None:
    wanted, repository = order(tmp_path, "good")
    other = small_models.write(tmp_path / "other", small_models.artifact(value_scale=7.0))
    newer = repository.add(small_engines.judged(other))
    repository.promote(newer, read_signing_key(wanted.key))
    with pytest.raises(ModelError, match=f"Version {newer}, which is promoted, is of another model"):
        make(wanted, repository, newer, gate=COMMAND)
    assert repository.pointer().serving == newer
    (repository.folder(newer) / MANIFEST_FILE).unlink()
    make(wanted, repository, newer, gate=COMMAND)
    assert repository.pointer().serving != newer


def test_a_version_that_is_refused_for_another_reason_is_not_judged_again(builds: Builds, tmp_path: Path) -> None:
    wanted, repository = order(tmp_path, "good")
    make(wanted, repository, None, gate=COMMAND)
    serving = repository.pointer().serving
    with pytest.raises(ModelError, match=f"Version {serving} was made for this GPU and is promoted"):
        make(wanted, repository, serving, gate=("false",))


def test_what_was_promoted_while_the_gate_judged_stays(builds: Builds, tmp_path: Path) -> None:
    wanted, repository = order(tmp_path, "good")
    newer = repository.add(small_engines.judged(small_models.write(tmp_path / "new", small_models.artifact())))
    promoting = f"""
from engines.repository.keys import read_signing_key
from engines.repository.store import Repository
keys = Path({str(wanted.key)!r})
Repository(Path(root), keys.with_name("trusted.pem")).promote({newer!r}, read_signing_key(keys))
"""
    make(
        wanted,
        repository,
        None,
        gate=(*COMMAND[:2], GATE.replace("raise SystemExit(0", promoting + "raise SystemExit(0")),
    )
    assert repository.pointer().serving == newer


def test_the_gate_is_there() -> None:
    assert converse((*_GATE, "verify", "--help"), b"", timeout_s=60.0, heard=lambda line: None).status == 0


def test_without_a_key_nothing_is_built(builds: Builds, tmp_path: Path) -> None:
    wanted, repository = order(tmp_path, "good")
    with pytest.raises(ModelError, match="There is no signing key"):
        make(wanted._replace(key=tmp_path / "nowhere"), repository, None, gate=COMMAND)
    assert builds.asked == []


def test_a_repository_that_cannot_be_written_is_told_in_words(builds: Builds, tmp_path: Path) -> None:
    wanted, repository = order(tmp_path, "good")
    repository.root.touch()
    with pytest.raises(ModelError, match="cannot be written to"):
        make(wanted, repository, None, gate=COMMAND)
    assert builds.asked == []
