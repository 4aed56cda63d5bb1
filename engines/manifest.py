"""The manifest beside every ONNX file: what the model is, what it was trained on, and whether it may run here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from engines.model import ModelError

MANIFEST_FILE = "manifest.json"
ONNX_FILE = "model.onnx"
Fetch = Callable[[Path], bytes]
"""How a file is read: plainly, or by a seal, which checks the bytes before it hands them on."""


class Tier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A name for scores at or above a threshold."""

    name: str
    at_least: float
    """Probability of a tip within the longest horizon."""


class Prior(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Coefficients of the formula in `engines/prior.py`: what tip history alone says."""

    bias: float
    weights: dict[str, float]
    """Feature name -> weight in the logit."""
    shares: tuple[float, ...]
    """Share of the longest horizon's probability that falls within each horizon; ascending, the last is 1."""
    amount_minor: float
    """Mean tips, in minor units, within the longest horizon where there was one."""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Facts about one model; `manifest.json` beside `model.onnx`."""

    name: str
    version: str
    sha256: str
    """Hash of the ONNX file's bytes, 64 hex digits."""
    features: str
    """Fingerprint of the feature catalogue that it was trained on."""
    columns: tuple[str, ...]
    """Feature names in column order."""
    history: tuple[int, int]
    """(L, C): events of history, channels an event."""
    horizons_s: tuple[int, ...]
    """Seconds, ascending."""
    tiers: tuple[Tier, ...]
    """Ascending thresholds; the first is 0."""
    prior: Prior
    trained_on: str
    """One line: which data, which seed."""
    created: str
    """ISO 8601, UTC."""
    metrics: dict[str, float] = {}
    """Held-out figures by name."""

    def __post_init__(self) -> None:
        """Refuse a manifest that contradicts itself."""
        thresholds = [tier.at_least for tier in self.tiers]
        if not thresholds or thresholds[0] != 0 or thresholds != sorted(thresholds):
            raise ValueError("`tiers` must ascend and begin at 0")
        if not self.horizons_s or list(self.horizons_s) != sorted(set(self.horizons_s)):
            raise ValueError("`horizons_s` must ascend")
        shares = self.prior.shares
        if len(shares) != len(self.horizons_s) or list(shares) != sorted(shares) or shares[0] < 0 or shares[-1] != 1:
            raise ValueError("`prior.shares` must hold one share per horizon, ascending to 1")

    @property
    def n_features(self) -> int:
        """Columns of the feature matrix."""
        return len(self.columns)


class Artifact(NamedTuple):
    """A model as read from its folder: the bytes are those whose hash was checked."""

    manifest: Manifest
    onnx: bytes


def read_manifest(folder: Path, *, fetch: Fetch = Path.read_bytes) -> Manifest:
    """Read a folder's manifest alone, without looking at its ONNX file."""
    path = folder / MANIFEST_FILE
    try:
        return msgspec.json.decode(fetch(path), type=Manifest)
    except FileNotFoundError:
        raise ModelError(
            f"There is no model in {folder}: {MANIFEST_FILE} is missing. Point at a folder that `tipstream-engine "
            "train` wrote; a service without `model.path` uses the reference model."
        ) from None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(
            f"{path} cannot be read as a manifest ({error}). Train or copy the model again with this version."
        ) from error


def read(folder: Path, *, features: str, fetch: Fetch = Path.read_bytes) -> Artifact:
    """Read a model that may run beside the feature catalogue with fingerprint `features`.

    The ONNX file is read once and those bytes are hashed, so that what was checked is what runs.
    Raises ModelError if a file is missing or damaged, or if the model was trained on another catalogue.
    """
    manifest = read_manifest(folder, fetch=fetch)
    if manifest.features != features:
        raise ModelError(
            f"Model {manifest.name} {manifest.version} was trained on feature catalogue {manifest.features}, but this "
            f"build computes {features}. Train it again (`make model` for the reference model) or run the release "
            "that it was trained with."
        )
    path = folder / ONNX_FILE
    try:
        onnx = fetch(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error}). Copy the model's folder again, whole.") from error
    found = hashlib.sha256(onnx).hexdigest()
    if found != manifest.sha256:
        raise ModelError(
            f"{path} has SHA-256 {found[:16]}..., but its manifest says {manifest.sha256[:16]}.... One of the two was "
            "replaced or cut short: copy the model's folder again, whole."
        )
    return Artifact(manifest, onnx)


def load(folder: Path, *, features: str) -> Manifest:
    """Check a folder as `read` does and return its manifest."""
    return read(folder, features=features).manifest
