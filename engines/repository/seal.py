"""A seal: the signed word that a version, to the byte, may serve. It is the file `seal` in the version's folder.

    ed25519 <id of the key> <signature in hex>
    <JSON: `Seal`>

The signature is over the JSON exactly as it stands there, so nothing depends on how JSON is written.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import msgspec

from engines.manifest import Fetch
from engines.model import ModelError
from engines.repository.keys import SigningKey, TrustedKeys

SEAL_FILE: Final = "seal"
_CONTEXT: Final = b"tipstream seal 1\n"  # so that no signature made for something else counts here
_SCHEME: Final = b"ed25519"


class Seal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was signed."""

    version: str
    """Id of the version: a seal holds for no other, whatever folder it is moved to."""
    files: dict[str, str]
    """Name -> SHA-256 of every file that decides how it scores."""
    gate: str
    """When the gate passed it, ISO 8601; empty if it was forced."""
    forced: str = ""
    """Why it may serve without having passed the gate."""
    sealed: str
    """ISO 8601, UTC."""


def pack(seal: Seal, key: SigningKey) -> bytes:
    """Return the file's content."""
    body = msgspec.json.format(msgspec.json.encode(seal)) + b"\n"
    return b"%s %s %s\n%s" % (_SCHEME, key.id.encode(), key.sign(_CONTEXT + body).hex().encode(), body)


def read(folder: Path, version: str, trusted: TrustedKeys) -> Seal:
    """Return the seal of a version in its folder; raises ModelError unless a trusted key made it for this version."""
    path = folder / SEAL_FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(
            f"Version {version} is not signed, so nobody vouches for it. Pass it through the gate with "
            "`tipstream-engine verify` and promote it where the signing key is."
        ) from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}). Copy the version again, whole.") from error
    head, _, body = content.partition(b"\n")
    match head.split(b" "):
        case [scheme, key_id, signature] if scheme == _SCHEME:
            name = key_id.decode(errors="replace")
        case _:
            raise ModelError(f"{path} is no seal of this release. Sign the version again.")
    if name not in trusted:
        raise ModelError(
            f"Version {version} was signed by key {name}, which is not trusted here. If it is yours, add its public "
            "half to the trusted keys; else find out who put the version there."
        )
    try:
        signed = trusted.accepts(name, bytes.fromhex(signature.decode()), _CONTEXT + body)
        seal = msgspec.json.decode(body, type=Seal) if signed else None
    except (ValueError, msgspec.DecodeError):
        seal = None
    if seal is None:
        raise ModelError(f"{path} was changed after it was signed. Do not serve it: copy the version from its origin.")
    if seal.version != version:
        raise ModelError(
            f"The seal in {folder} is that of version {seal.version}, not {version}: the folder was renamed or "
            "replaced. Copy the version from its origin."
        )
    return seal


def reader(seal: Seal) -> Fetch:
    """Return a way to read a sealed version's files that hands on no byte that the seal does not vouch for."""

    def fetch(path: Path) -> bytes:
        content = path.read_bytes()
        wanted, found = seal.files.get(path.name), hashlib.sha256(content).hexdigest()
        if found != wanted:
            raise ModelError(
                f"{path} has SHA-256 {found[:16]}..., but the seal of version {seal.version} says "
                f"{(wanted or 'nothing of it')[:16]}...: it was changed after it was signed. Do not serve it: copy the "
                "version from its origin."
            )
        return content

    return fetch
