"""Keys are made once, read back, and nothing else is taken for one."""

import errno
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from engines import files
from engines.model import ModelError
from engines.repository.keys import SIGNING_FILE, TRUSTED_FILE, generate, read_signing_key, read_trusted


def test_a_signature_holds_for_its_content_and_key_alone(tmp_path: Path) -> None:
    key, other = generate(tmp_path / "a"), generate(tmp_path / "b")
    trusted = read_trusted(tmp_path / "a" / TRUSTED_FILE)
    signature = read_signing_key(tmp_path / "a" / SIGNING_FILE).sign(b"content")
    assert trusted.accepts(key.id, signature, b"content")
    assert not trusted.accepts(key.id, signature, b"contents")
    assert not trusted.accepts(other.id, other.sign(b"content"), b"content")
    assert not trusted.accepts(key.id, other.sign(b"content"), b"content")


@given(st.binary(max_size=70))
def test_no_other_bytes_pass_for_a_signature(tmp_path_factory: pytest.TempPathFactory, signature: bytes) -> None:
    folder = tmp_path_factory.mktemp("keys")
    key = generate(folder)
    assert not read_trusted(folder / TRUSTED_FILE).accepts(key.id, signature, b"content")


def test_the_signing_key_is_its_owners_alone_and_never_overwritten(tmp_path: Path) -> None:
    key = generate(tmp_path)
    assert (tmp_path / SIGNING_FILE).stat().st_mode & 0o777 == 0o600
    with pytest.raises(ModelError, match="is there already"):
        generate(tmp_path)
    assert read_signing_key(tmp_path / SIGNING_FILE).id == key.id


def test_a_key_that_could_not_be_made_known_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / TRUSTED_FILE).mkdir()
    with pytest.raises(ModelError, match="No keys can be written"):
        generate(tmp_path)
    assert not (tmp_path / SIGNING_FILE).exists()


def test_a_public_half_that_was_lost_is_made_again(tmp_path: Path) -> None:
    key = generate(tmp_path)
    (tmp_path / TRUSTED_FILE).unlink()
    assert generate(tmp_path).id == key.id
    assert key.id in read_trusted(tmp_path / TRUSTED_FILE)


def test_a_key_that_was_withdrawn_is_not_trusted_again(tmp_path: Path) -> None:
    withdrawn, other = generate(tmp_path), generate(tmp_path / "other")
    (tmp_path / TRUSTED_FILE).write_bytes(other.public_pem())
    with pytest.raises(ModelError, match="move it away first"):
        generate(tmp_path)
    assert withdrawn.id not in read_trusted(tmp_path / TRUSTED_FILE)


def test_a_folder_that_cannot_be_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No keys can be written"):
        generate(tmp_path / ("k" * 300))


def test_a_full_disk_spoils_no_key_that_was_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = generate(tmp_path)
    (tmp_path / SIGNING_FILE).rename(tmp_path / "old.key")

    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:-9])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write", full)
    with pytest.raises(ModelError, match=r"No keys can be written .*No space left"):
        generate(tmp_path)
    monkeypatch.undo()
    assert first.id in read_trusted(tmp_path / TRUSTED_FILE)
    assert generate(tmp_path).id in read_trusted(tmp_path / TRUSTED_FILE)


def test_a_second_key_is_trusted_beside_the_first(tmp_path: Path) -> None:
    first = generate(tmp_path)
    (tmp_path / SIGNING_FILE).rename(tmp_path / "old.key")
    second = generate(tmp_path)
    trusted = read_trusted(tmp_path / TRUSTED_FILE)
    assert first.id in trusted
    assert second.id in trusted
    assert "0" * 16 not in trusted


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    generate(tmp_path)
    (tmp_path / SIGNING_FILE).chmod(0o640)
    with pytest.raises(ModelError, match=r"can be read by others.*chmod 600"):
        read_signing_key(tmp_path / SIGNING_FILE)


def test_what_is_no_signing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / SIGNING_FILE
    with pytest.raises(ModelError, match=r"There is no signing key at .*keygen.* with --keys"):
        read_signing_key(path)
    path.write_bytes(b"-----BEGIN nothing")
    path.chmod(0o600)
    with pytest.raises(ModelError, match="is no private key"):
        read_signing_key(path)
    path.write_bytes(
        Ed448PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    with pytest.raises(ModelError, match="is no Ed25519 key"):
        read_signing_key(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "There are no keys to trust at"),
        (b"", "holds no Ed25519 public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "holds something that is no public key"),
    ],
)
def test_what_holds_no_trusted_key_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / TRUSTED_FILE
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=words):
        read_trusted(path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="No keys can be written to"):
        generate(tmp_path / "file" / "keys")
    with pytest.raises(ModelError, match=r"file is a file\. Name a folder"):
        generate(tmp_path / "file")
