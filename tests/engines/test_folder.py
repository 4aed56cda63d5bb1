"""A model's and an engine's folder, read alike."""

from pathlib import Path

import pytest

from engines.cpu import OnnxModel
from engines.folder import ENGINE_FILES, MODEL_FILES, contents, is_engine, load, read_either
from engines.manifest import Artifact
from engines.model import ModelError
from engines.tensorrt.plan import FACTS_FILE, PLAN_FILE, Engine
from tests.engines import small_engines, small_models

FEATURES = small_models.FINGERPRINT


def test_a_model_is_read_and_run_by_onnx_runtime(tmp_path: Path) -> None:
    folder = small_models.write(tmp_path, small_models.artifact())
    opened = read_either(folder, features=FEATURES)
    assert isinstance(opened, Artifact)
    assert set(contents(folder)) == set(MODEL_FILES)
    assert not is_engine(folder)
    model = load(opened)
    assert isinstance(model, OnnxModel)
    model.close()


def test_an_engine_is_read_as_one(tmp_path: Path) -> None:
    folder = small_engines.write(tmp_path)
    assert is_engine(folder)
    assert set(contents(folder)) == set(ENGINE_FILES)
    assert isinstance(read_either(folder, features=FEATURES), Engine)


def test_contents_change_with_every_file(tmp_path: Path) -> None:
    folder = small_engines.write(tmp_path)
    before = contents(folder)
    for name in ENGINE_FILES:
        with (folder / name).open("ab") as file:
            file.write(b" ")
        assert {each for each, digest in contents(folder).items() if digest != before[each]} == {name}
        before = contents(folder)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = small_engines.write(tmp_path)
    (folder / PLAN_FILE).unlink()
    with pytest.raises(ModelError, match=r"There is no whole model or engine in .*engine\.plan"):
        contents(folder)


def test_every_byte_goes_through_the_reader_that_is_given(tmp_path: Path) -> None:
    folder = small_engines.write(tmp_path)
    read: list[str] = []

    def fetch(path: Path) -> bytes:
        read.append(path.name)
        return path.read_bytes()

    read_either(folder, features=FEATURES, fetch=fetch)
    assert sorted(read) == sorted(ENGINE_FILES)


def test_a_plan_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    folder = small_engines.write(tmp_path)
    (folder / PLAN_FILE).write_bytes(b"a pla")
    with pytest.raises(ModelError, match="was replaced or cut short, and a plan is executable code"):
        read_either(folder, features=FEATURES)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x93NUMPY"])
def test_a_damaged_self_test_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = small_engines.write(tmp_path)
    (folder / "known.npz").write_bytes(content)
    with pytest.raises(ModelError, match=r"cannot be read .* Build it again"):
        read_either(folder, features=FEATURES)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"key": "\xff"}'])
def test_damaged_facts_are_refused(tmp_path: Path, content: bytes) -> None:
    folder = small_engines.write(tmp_path)
    (folder / FACTS_FILE).write_bytes(content)
    with pytest.raises(ModelError, match="Build the engine again"):
        read_either(folder, features=FEATURES)
