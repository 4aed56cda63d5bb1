"""The commands about the repository, as a person types them."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
import rich
from rich.console import Console

from engines.cli import main
from engines.repository.keys import TRUSTED_FILE
from engines.repository.store import Repository
from tests.engines import small_engines, small_models

Said = pytest.CaptureFixture[str]


class Desk:
    """Types commands for one repository and set of keys, and reads the answers."""

    def __init__(self, folder: Path, capsys: Said) -> None:
        self.folder = folder
        self._capsys = capsys

    def type(self, command: str, *arguments: str | Path, status: int = 0) -> str:
        where = {
            "list": [self.folder / "engines", "--keys", self.folder / "keys"],
            "keygen": ["--keys", self.folder / "keys"],
            "gc": ["--repository", self.folder / "engines"],
        }.get(command, ["--repository", self.folder / "engines", "--keys", self.folder / "keys"])
        assert main([command, *map(str, arguments), *map(str, where)]) == status
        said = self._capsys.readouterr()
        return said.err if status else said.out

    def model(self, number: int) -> Path:
        """Make a model that passed the gate."""
        model = small_models.artifact(value_scale=number)
        return small_engines.judged(small_models.write(self.folder / f"model{number}", model))


@pytest.fixture
def desk(tmp_path: Path, capsys: Said) -> Desk:
    made = Desk(tmp_path, capsys)
    assert "keep it where versions are judged" in made.type("keygen")
    return made


def test_models_are_promoted_listed_and_taken_back(desk: Desk) -> None:
    first = desk.type("promote", desk.model(1)).split()[1]
    said = desk.type("promote", desk.model(2), "--reason", "better")
    second = said.split()[1]
    assert said == f"Version {second} serves; {first} is kept to go back to.\n"
    rows = [line for line in desk.type("list").splitlines() if "small 1" in line]
    assert {line.split("│")[2].strip(): line.split("│")[1].strip() for line in rows} == {
        first: "previous",
        second: "serving",
    }
    assert all(line.count("passed") == line.count("yes") == 1 for line in rows)
    assert desk.type("rollback") == f"Version {first} serves again; {second} is kept.\n"
    assert desk.type("promote", second[:6]).startswith(f"Version {second} serves")


def test_what_is_not_allowed_is_said_in_a_sentence(desk: Desk) -> None:
    failed = small_engines.judged(small_engines.write(desk.folder / "built"), passed=False)
    told = desk.type("promote", failed, status=2)
    assert told.startswith(f"tipstream-engine promote: Version {failed.name} did not pass the gate: the other.")
    assert "--force" in told
    assert desk.type("promote", failed.name, "--force", "emergency").startswith(f"Version {failed.name} serves.")
    assert "forced: emergency" in desk.type("list")
    assert "no previous version" in desk.type("rollback", status=2)
    assert "No version in" in desk.type("promote", "zz", status=2)
    assert "is there already" in desk.type("keygen", status=2)


def test_a_version_signed_here_is_promoted_there(desk: Desk, tmp_path: Path, capsys: Said) -> None:
    version = desk.type("sign", desk.model(1)).split()[1]
    there = Desk(tmp_path / "there", capsys)
    (tmp_path / "there" / "keys").mkdir(parents=True)
    (tmp_path / "there" / "keys" / TRUSTED_FILE).write_bytes((tmp_path / "keys" / TRUSTED_FILE).read_bytes())
    assert there.type("promote", tmp_path / "engines" / version) == f"Version {version} serves.\n"
    assert "is not signed" in there.type("promote", desk.model(2), status=2)


def test_a_seal_that_nobody_here_trusts_is_shown_as_such(desk: Desk, tmp_path: Path) -> None:
    desk.type("promote", desk.model(1))
    (tmp_path / "keys" / TRUSTED_FILE).unlink()
    assert "not trusted" in desk.type("list")


def test_a_version_that_was_changed_or_is_gone_is_shown_as_such(desk: Desk, tmp_path: Path) -> None:
    version = desk.type("promote", desk.model(1)).split()[1]
    other = desk.type("promote", desk.model(2)).split()[1]
    (tmp_path / "engines" / version / "model.onnx").write_bytes(b"other bytes")
    assert "changed" in desk.type("list")
    shutil.rmtree(tmp_path / "engines" / other)
    assert f"Version {other} is to serve, and cannot be read." in desk.type("list")


def test_names_and_reasons_are_shown_as_they_are(desk: Desk, tmp_path: Path, capsys: Said) -> None:
    odd = small_models.artifact()
    manifest = msgspec.structs.replace(odd.manifest, name="small[/]", trained_on="[bold]all[/bold] :wink: [/]")
    folder = small_models.write(tmp_path / "odd", odd._replace(manifest=manifest))
    desk.type("promote", folder, "--force", "[/] hotfix")
    listed = desk.type("list")
    assert "forced: [/] hotfix" in listed
    assert "small[/] 1" in listed
    assert main(["show", str(folder)]) == 0
    assert "[bold]all[/bold] :wink: [/]" in capsys.readouterr().out


def test_old_versions_are_cleared_away(desk: Desk, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        desk.type("promote", desk.model(number))
    repository = Repository(tmp_path / "engines")
    assert desk.type("gc", "--keep", "0", "--dry-run").endswith("1 version would go.\n")
    assert len(repository.versions()) == 3
    assert desk.type("gc", "--keep", "0").endswith("1 version gone.\n")
    assert len(repository.versions()) == 2
    assert desk.type("gc").endswith("0 versions gone.\n")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_shows_ids_whole_and_leaves_nothing_out(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    version = desk.type("promote", desk.model(1), "--force", "gate to follow").split()[1]
    monkeypatch.setattr(rich, "get_console", lambda: Console(width=width, force_terminal=True, color_system=None))
    listed = desk.type("list")
    assert version in listed
    assert "…" not in listed
    day = "2021-07-01" if width >= 80 else "07-01"
    assert day in listed.replace("│", " ").split(), "a date folds between its parts"


def test_models_below_any_folder_are_listed(desk: Desk, tmp_path: Path, capsys: Said) -> None:
    for name in ("a", "b/c"):
        small_models.write(tmp_path / "models" / name, small_models.artifact())
    assert main(["list", str(tmp_path / "models")]) == 0
    assert capsys.readouterr().out.count("small 1") == 2
