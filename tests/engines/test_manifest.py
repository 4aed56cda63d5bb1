"""Which model folders are accepted, and how the others are refused."""

from pathlib import Path

import msgspec
import pytest

from engines.manifest import MANIFEST_FILE, ONNX_FILE, Manifest, load, read
from engines.model import ModelError
from tests.engines import small_models


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    model = small_models.artifact()
    folder = small_models.write(tmp_path, model)
    assert read(folder, features=small_models.FINGERPRINT) == model
    assert load(folder, features=small_models.FINGERPRINT) == model.manifest


def test_another_catalogue_is_refused(tmp_path: Path) -> None:
    folder = small_models.write(tmp_path, small_models.artifact())
    with pytest.raises(ModelError, match="trained on feature catalogue 0123456789abcdef, but this build computes ffff"):
        load(folder, features="ffff")


def test_changed_bytes_are_refused(tmp_path: Path) -> None:
    folder = small_models.write(tmp_path, small_models.artifact())
    path = folder / ONNX_FILE
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match="copy the model's folder again"):
        load(folder, features=small_models.FINGERPRINT)


def test_where_there_is_no_model_a_command_and_a_setting_are_both_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"`tipstream-engine train` wrote; a service without `model\.path`"):
        load(tmp_path, features=small_models.FINGERPRINT)


@pytest.mark.parametrize(("file", "words"), [(MANIFEST_FILE, "There is no model in"), (ONNX_FILE, "cannot be read")])
def test_a_missing_file_is_named(tmp_path: Path, file: str, words: str) -> None:
    folder = small_models.write(tmp_path, small_models.artifact())
    (folder / file).unlink()
    with pytest.raises(ModelError, match=words):
        load(folder, features=small_models.FINGERPRINT)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tiers", [{"name": "low", "at_least": 0.1}]),
        ("tiers", []),
        ("horizons_s", [600, 60]),
        ("prior", {"bias": 0, "weights": {}, "shares": [0.5, 0.9], "amount_minor": 1}),
        ("surprise", 1),
        ("sha256", None),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path: Path, field: str, value: object) -> None:
    folder = small_models.write(tmp_path, small_models.artifact())
    fields = msgspec.json.decode((folder / MANIFEST_FILE).read_bytes(), type=dict[str, object])
    fields[field] = value
    (folder / MANIFEST_FILE).write_bytes(msgspec.json.encode(fields))
    with pytest.raises(ModelError, match="cannot be read as a manifest"):
        load(folder, features=small_models.FINGERPRINT)


def test_the_width_follows_from_the_columns() -> None:
    manifest: Manifest = small_models.artifact().manifest
    assert manifest.n_features == 5
