"""Ed25519 keys: one that signs, kept where engines are judged, and those that are trusted, kept where they serve."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from engines import files
from engines.model import ModelError

SIGNING_FILE: Final = "signing.key"
TRUSTED_FILE: Final = "trusted.pem"
_PUBLIC: Final = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)


class SigningKey:
    """The private half: whoever has it decides what may serve."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        """Wrap a key of the library."""
        self._key = key
        self.id = _id(key.public_key())

    def sign(self, content: bytes) -> bytes:
        """Return the 64 bytes of the signature."""
        return self._key.sign(content)

    def private_pem(self) -> bytes:
        """Return it as text that is not encrypted."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def public_pem(self) -> bytes:
        """Return the public half as text, for those who are to trust it."""
        return self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


class TrustedKeys:
    """Public halves: what one of them signed may serve."""

    def __init__(self, keys: Mapping[str, Ed25519PublicKey]) -> None:
        """Trust keys by id."""
        self._keys = keys

    def __contains__(self, key_id: str) -> bool:
        """Whether the key with this id is one of them."""
        return key_id in self._keys

    def accepts(self, key_id: str, signature: bytes, content: bytes) -> bool:
        """Whether the key with this id is trusted and signed exactly this content."""
        key = self._keys.get(key_id)
        if key is None:
            return False
        try:
            key.verify(signature, content)
        except InvalidSignature:
            return False
        return True


def generate(folder: Path) -> SigningKey:
    """Make a pair: `signing.key`, readable by its owner alone, and `trusted.pem`, to which the public half is added.

    Where there is a signing key and no trusted one, its public half is written again. Where there are both, raises
    ModelError: a key that is there and not trusted was withdrawn.
    """
    key = SigningKey(Ed25519PrivateKey.generate())
    path = folder / SIGNING_FILE
    try:
        if folder.exists() and not folder.is_dir():
            raise ModelError(f"{folder} is a file. Name a folder for the keys.")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return _trusted_again(path)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(key.private_pem())
            _trust(folder / TRUSTED_FILE, key)
        except OSError:
            path.unlink()  # a key that nobody trusts would only keep the next one from being made
            raise
    except OSError as error:
        raise ModelError(f"No keys can be written to {folder} ({error.strerror}). Name another folder.") from error
    return key


def _trusted_again(path: Path) -> SigningKey:
    trusted = path.with_name(TRUSTED_FILE)
    if trusted.exists() and _PUBLIC.search(trusted.read_bytes()):
        raise ModelError(
            f"{path} is there already. To change keys, move it away first: what it signed stays trusted as long as its "
            f"public half is in {TRUSTED_FILE}."
        )
    key = read_signing_key(path)
    _trust(trusted, key)
    return key


def _trust(path: Path, key: SigningKey) -> None:
    held = path.read_bytes() if path.exists() else b""
    files.replace(path, held + key.public_pem())  # half of one would spoil those before it


def read_signing_key(path: Path) -> SigningKey:
    """Read the private half; raises ModelError if it is missing, no Ed25519 key, or readable by others."""
    try:
        content, mode = path.read_bytes(), path.stat().st_mode
    except OSError as error:
        raise ModelError(
            f"There is no signing key at {path} ({error.strerror}). Make one with `tipstream-engine keygen`, or name "
            "the folder of yours with --keys."
        ) from error
    if mode & 0o077:
        raise ModelError(f"{path} can be read by others, who could then sign engines: run chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except TypeError as error:
        raise ModelError(
            f"{path} is encrypted, and nobody is asked for a password here: decrypt it (`openssl pkey`), or name the "
            "folder of another one with --keys."
        ) from error
    except ValueError as error:
        raise ModelError(
            f"{path} is no private key ({error}). Move it away, and make one with `tipstream-engine keygen`."
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ModelError(f"{path} is no Ed25519 key. Move it away, and make one with `tipstream-engine keygen`.")
    return SigningKey(key)


def read_trusted(path: Path) -> TrustedKeys:
    """Read every public key in a PEM file; raises ModelError if there is none."""
    try:
        blocks = _PUBLIC.findall(path.read_bytes())
        keys = [serialization.load_pem_public_key(block) for block in blocks]
    except OSError as error:
        raise ModelError(
            f"There are no keys to trust at {path} ({error.strerror}). Copy {TRUSTED_FILE} from where engines are "
            "signed, or make keys with `tipstream-engine keygen`."
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ModelError(f"{path} holds something that is no public key ({error}). Copy it again.") from error
    found = {_id(key): key for key in keys if isinstance(key, Ed25519PublicKey)}
    if not found:
        raise ModelError(f"{path} holds no Ed25519 public key. Make keys with `tipstream-engine keygen`.")
    return TrustedKeys(found)


def _id(key: Ed25519PublicKey) -> str:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]
