"""A seal holds for what was signed, to the byte, and for nothing else."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.model import ModelError
from engines.repository import seal
from engines.repository.keys import TRUSTED_FILE, SigningKey, TrustedKeys, generate, read_trusted
from engines.repository.seal import SEAL_FILE, Seal

MADE = Seal(version="abc", files={"model.onnx": "00"}, gate="2022-01-01T00:00:00Z", sealed="2022-01-02T00:00:00Z")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[SigningKey, TrustedKeys]:
    folder = tmp_path_factory.mktemp("keys")
    return generate(folder), read_trusted(folder / TRUSTED_FILE)


def test_what_was_signed_is_read_back(tmp_path: Path, keys: tuple[SigningKey, TrustedKeys]) -> None:
    key, trusted = keys
    (tmp_path / SEAL_FILE).write_bytes(seal.pack(MADE, key))
    assert seal.read(tmp_path, "abc", trusted) == MADE
    with pytest.raises(ModelError, match="is that of version abc, not abd"):
        seal.read(tmp_path, "abd", trusted)


def test_a_version_without_a_seal_is_refused(tmp_path: Path, keys: tuple[SigningKey, TrustedKeys]) -> None:
    with pytest.raises(ModelError, match=r"abc is not signed.*tipstream-engine verify"):
        seal.read(tmp_path, "abc", keys[1])


def test_a_key_that_is_not_trusted_is_named(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, keys: tuple[SigningKey, TrustedKeys]
) -> None:
    stranger = generate(tmp_path_factory.mktemp("other"))
    (tmp_path / SEAL_FILE).write_bytes(seal.pack(MADE, stranger))
    with pytest.raises(ModelError, match=f"signed by key {stranger.id}, which is not trusted here"):
        seal.read(tmp_path, "abc", keys[1])


@given(data=st.data())
@settings(max_examples=60)
def test_no_byte_of_a_seal_can_be_changed(
    tmp_path_factory: pytest.TempPathFactory, keys: tuple[SigningKey, TrustedKeys], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("seal")
    content = bytearray(seal.pack(MADE, keys[0]))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    (folder / SEAL_FILE).write_bytes(content)
    try:
        found = seal.read(folder, "abc", keys[1])
    except ModelError:
        return
    # Only the case of the signature's hex digits says nothing.
    assert found == MADE
    assert bytes(content).lower() == seal.pack(MADE, keys[0]).lower()


@pytest.mark.parametrize("content", [b"", b"{}", b"ed25519 x\n{}", b"rsa a b\n{}", b"ed25519 \xff\xff 00\n{}"])
def test_what_is_no_seal_is_refused(tmp_path: Path, keys: tuple[SigningKey, TrustedKeys], content: bytes) -> None:
    (tmp_path / SEAL_FILE).write_bytes(content)
    with pytest.raises(ModelError, match=r"is no seal|is not trusted"):
        seal.read(tmp_path, "abc", keys[1])
