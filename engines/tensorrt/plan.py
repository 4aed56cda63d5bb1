"""A built engine on disk: the plan, what it was built from and for, and rows whose scores are known.

- engine.plan: the plan: executable code, deserialised only after its hash was checked
- engine.json: `Facts`
- known.npz: inputs and the FP32 reference's scores, for the self-test at start-up
- model.onnx: the master, with its manifest.json: together a model folder like any other
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from engines.manifest import Artifact, Fetch, Manifest, read
from engines.model import BUCKETS, ModelError, Scores

PLAN_FILE = "engine.plan"
FACTS_FILE = "engine.json"
KNOWN_FILE = "known.npz"
Precision = Literal["fp32", "fp16", "int8"]
#: SHA-256 in hex digits: folders are named after it, so nothing else passes for one.
Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
#: Part of every key: raise it when the builder's code changes what a plan is.
BUILDER_VERSION = 1


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a person may choose about a build; all of it is in the key."""

    precision: Precision = "fp32"
    buckets: tuple[int, ...] = BUCKETS
    """Batch sizes, ascending: a static profile each."""
    lengths: tuple[int, ...] = ()
    """History lengths, ascending, the last being the model's own; empty means that one alone."""
    wide: bool = False
    """One profile from the smallest to the largest bucket instead of one each: for comparison."""
    level: int = 3
    """TensorRT's optimisation level, 0 to 5: higher ones compare more kernels. 3 is TensorRT's own default; at 5, some
    FP16 plans that TensorRT 8.6 builds end the process that loads them."""
    tf32: bool = True
    workspace_mib: int = 256
    timing_iterations: int = 8
    """Runs of a kernel that are averaged when kernels are compared."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """The GPU that a plan was built on: it runs on no other kind."""

    name: str
    capability: str
    multiprocessors: int
    memory_gib: int
    l2_mib: int

    def __str__(self) -> str:
        """What a person calls it."""
        return f"{self.name} ({self.memory_gib} GiB, sm_{self.capability.replace('.', '')})"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan is: `engine.json`."""

    key: Sha256
    """SHA-256 over the exact ONNX bytes, the manifest, TensorRT's version, the GPU, and every setting."""
    plan_sha256: Sha256
    onnx_sha256: Sha256
    """Of the ONNX bytes that TensorRT parsed: the master's, or those made from it for another precision."""
    tensorrt: str
    gpu: Gpu
    settings: Settings
    driver: str
    created: str
    """ISO 8601, UTC."""
    build_s: float
    plan_bytes: int


class Known(NamedTuple):
    """Rows whose scores the FP32 reference gave: features (n, F), history (n, L, C), and the scores."""

    features: NDArray[np.float32]
    history: NDArray[np.float32]
    scores: Scores


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the builder's process is asked."""

    onnx: bytes
    """The master, FP32."""
    manifest: bytes
    """Its manifest.json."""
    settings: Settings
    cache: str
    """Folder in which engines lie, each in a folder named after its key."""
    ranges: dict[str, float] = {}
    """For INT8: value name -> largest magnitude that matters."""
    known: bytes
    """The file with the rows of the self-test."""
    token: str
    """Part of the name of what is not finished, so that whoever stops the builder knows what to clear away."""


class Engine(NamedTuple):
    """A built engine as read from its folder; the plan's bytes are those whose hash was checked."""

    artifact: Artifact
    facts: Facts
    plan: bytes
    known: Known

    @property
    def manifest(self) -> Manifest:
        """The model's manifest."""
        return self.artifact.manifest


def key(onnx: bytes, manifest: bytes, tensorrt: str, gpu: Gpu, settings: Settings) -> str:
    """Return 64 hex digits that differ whenever the plan, or the folder around it, could."""
    material = {
        "builder": BUILDER_VERSION,
        "onnx": hashlib.sha256(onnx).hexdigest(),
        "manifest": hashlib.sha256(manifest).hexdigest(),
        "tensorrt": tensorrt,
        "gpu": gpu,
        "settings": settings,
    }
    return hashlib.sha256(msgspec.json.encode(material, order="deterministic")).hexdigest()


def read_facts(folder: Path, *, fetch: Fetch = Path.read_bytes) -> Facts:
    """Read what the engine in `folder` is, without looking at its plan; raises ModelError."""
    path = folder / FACTS_FILE
    try:
        return msgspec.json.decode(fetch(path), type=Facts)
    except FileNotFoundError:
        raise ModelError(
            f"There is no TensorRT engine in {folder}: {FACTS_FILE} is missing. Make one with "
            f"`tipstream-engine build {folder}`, or point at a folder that it wrote."
        ) from None
    except (OSError, ValueError) as error:  # no JSON, no UTF-8, or of another release
        raise ModelError(f"{path} cannot be read ({error}). Build the engine again with this version.") from error


def read_engine(folder: Path, *, features: str, fetch: Fetch = Path.read_bytes) -> Engine:
    """Read an engine for the feature catalogue with fingerprint `features`, its hashes checked; raises ModelError."""
    facts = read_facts(folder, fetch=fetch)
    artifact = read(folder, features=features, fetch=fetch)
    path = folder / PLAN_FILE
    try:
        plan = fetch(path)
        known = unpack_known(fetch(folder / KNOWN_FILE))
    except (OSError, ValueError) as error:
        raise ModelError(f"The engine in {folder} cannot be read ({error}). Build it again.") from error
    found = hashlib.sha256(plan).hexdigest()
    if found != facts.plan_sha256:
        raise ModelError(
            f"{path} has SHA-256 {found[:16]}..., but {FACTS_FILE} says {facts.plan_sha256[:16]}.... It was replaced "
            "or cut short, and a plan is executable code: delete the folder and build the engine again."
        )
    return Engine(artifact, facts, plan, known)


def pack_known(known: Known) -> bytes:
    """Return the bytes of the file with the rows of the self-test."""
    file = io.BytesIO()
    p_tip, value = known.scores
    np.savez(file, features=known.features, history=known.history, p_tip=p_tip, value=value)
    return file.getvalue()


def unpack_known(content: bytes) -> Known:
    """Return what `pack_known` packed; raises ValueError for anything else."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return Known(arrays["features"], arrays["history"], Scores(arrays["p_tip"], arrays["value"]))
    except Exception as error:  # NumPy's and zipfile's are of many kinds, and their words would mislead
        raise ValueError(f"{KNOWN_FILE} is damaged") from error
