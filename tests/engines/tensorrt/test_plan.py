"""The key of an engine: equal for equal builds, different as soon as anything about them is."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest

from engines.model import ModelError
from engines.tensorrt.plan import FACTS_FILE, KNOWN_FILE, Settings, key, read_engine, read_facts
from tests.engines import small_engines, small_models
from tests.engines.small_engines import GPU

SETTINGS = Settings()
OTHERS: dict[str, object] = {
    "precision": "fp16",
    "buckets": (1, 8),
    "lengths": (16, 32),
    "wide": True,
    "level": 4,
    "tf32": False,
    "workspace_mib": 512,
    "timing_iterations": 4,
}


def test_a_key_is_the_same_every_time() -> None:
    assert key(b"onnx", b"{}", "8.6.1", GPU, SETTINGS) == key(b"onnx", b"{}", "8.6.1", GPU, Settings())
    assert len(key(b"onnx", b"{}", "8.6.1", GPU, SETTINGS)) == 64


@pytest.mark.parametrize("field", Settings.__struct_fields__)
def test_every_setting_is_in_the_key(field: str) -> None:
    other = msgspec.structs.replace(SETTINGS, **{field: OTHERS[field]})
    assert key(b"onnx", b"{}", "8.6.1", GPU, other) != key(b"onnx", b"{}", "8.6.1", GPU, SETTINGS)


@pytest.mark.parametrize("field", type(GPU).__struct_fields__)
def test_everything_that_is_known_of_the_gpu_is_in_the_key(field: str) -> None:
    found = getattr(GPU, field)
    other = msgspec.structs.replace(GPU, **{field: found + type(found)(1)})
    assert key(b"onnx", b"{}", "8.6.1", other, SETTINGS) != key(b"onnx", b"{}", "8.6.1", GPU, SETTINGS)


def test_the_model_its_manifest_and_tensorrt_are_in_the_key() -> None:
    keys = {
        key(b"onnx", b"{}", "8.6.1", GPU, SETTINGS),
        key(b"onnX", b"{}", "8.6.1", GPU, SETTINGS),
        key(b"onnx", b"[]", "8.6.1", GPU, SETTINGS),
        key(b"onnx", b"{}", "8.6.2", GPU, SETTINGS),
    }
    assert len(keys) == 4


@pytest.mark.parametrize("field", ["key", "plan_sha256", "onnx_sha256"])
@pytest.mark.parametrize("digits", ["../../../elsewhere", "", "0" * 63, "A" * 64, "0" * 64 + "\n", "/" + "0" * 63])
def test_facts_from_elsewhere_name_no_folder_of_their_own_choice(tmp_path: Path, field: str, digits: str) -> None:
    folder = small_engines.write(tmp_path)
    facts = read_facts(folder)
    (folder / FACTS_FILE).write_bytes(msgspec.json.encode(msgspec.structs.replace(facts, **{field: digits})))
    with pytest.raises(ModelError, match=r"engine\.json cannot be read .* Build the engine again"):
        read_facts(folder)


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


def archive(bits: int) -> bytes:
    """An archive whose only entry claims to be encrypted (bit 0) or patched (bit 5)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr("features.npy", array())
    content = bytearray(file.getvalue())
    content[6] |= bits
    content[content.index(b"PK\x01\x02") + 8] |= bits
    return bytes(content)


@pytest.mark.parametrize("content", [b"garbage", array(), archive(0), archive(1), archive(1 << 5)])
def test_rows_that_are_none_are_told_in_words_of_our_own(tmp_path: Path, content: bytes) -> None:
    folder = small_engines.write(tmp_path)
    (folder / KNOWN_FILE).write_bytes(content)
    with pytest.raises(ModelError, match=r"cannot be read \(known\.npz is damaged\)\. Build it again"):
        read_engine(folder, features=small_models.FINGERPRINT)
