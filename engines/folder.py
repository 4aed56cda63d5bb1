"""A model's or an engine's folder, whichever it is: what lies in it, read and loaded alike."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from engines.cpu import OnnxModel
from engines.manifest import MANIFEST_FILE, ONNX_FILE, Artifact, Fetch, read
from engines.model import Model, ModelError
from engines.tensorrt.plan import FACTS_FILE, KNOWN_FILE, PLAN_FILE, Engine, read_engine

MODEL_FILES: Final = (MANIFEST_FILE, ONNX_FILE)
ENGINE_FILES: Final = (*MODEL_FILES, FACTS_FILE, PLAN_FILE, KNOWN_FILE)


def is_engine(folder: Path) -> bool:
    """Whether a folder holds a TensorRT engine, and not a model alone."""
    return (folder / FACTS_FILE).exists()


def contents(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that decides how a folder scores, by name; raises ModelError if one is missing.

    Equal contents score equally: a verdict of the gate and a signature are about contents, not about a path.
    """
    try:
        names = ENGINE_FILES if is_engine(folder) else MODEL_FILES
        return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    except OSError as error:
        raise ModelError(
            f"There is no whole model or engine in {folder} ({error.strerror}: {Path(error.filename).name}). Point at "
            "a folder that `tipstream-engine train` or `build` wrote."
        ) from error


def read_either(folder: Path, *, features: str, fetch: Fetch = Path.read_bytes) -> Artifact | Engine:
    """Read a folder for the feature catalogue with fingerprint `features`, its hashes checked; raises ModelError."""
    if is_engine(folder):
        return read_engine(folder, features=features, fetch=fetch)
    return read(folder, features=features, fetch=fetch)


def load(opened: Artifact | Engine) -> Model:
    """Load what was read: by TensorRT in this process if it is an engine (probe it first), else by ONNX Runtime."""
    if isinstance(opened, Artifact):
        return OnnxModel(opened)
    try:
        from engines.tensorrt.runner import TensorRTRunner  # needs a GPU's packages
    except ImportError as error:
        raise ModelError(
            f"A TensorRT engine needs {error.name or error}, which is not installed. On a machine with an NVIDIA GPU: "
            "pip install 'tipstream[gpu]'"
        ) from error
    return TensorRTRunner(opened)
