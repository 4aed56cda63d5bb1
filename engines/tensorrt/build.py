"""Build engines from anywhere, the service included: a process of its own does the work. Imports no GPU package."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from engines.child import Ended, converse, missing, own
from engines.cpu import OnnxModel
from engines.manifest import Artifact, Manifest
from engines.model import ModelError
from engines.tensorrt.plan import Known, Request, Settings, pack_known

if TYPE_CHECKING:
    from engines.tensorrt.calibrate import Calibration  # brings ONNX's package, which a service does without

BUILD_TIMEOUT_S: Final = 900.0
_KNOWN_ROWS: Final = 64
_BUILDER: Final = own("engines.tensorrt.builder")


class _Line(msgspec.Struct):
    step: str | None = None
    built: str | None = None
    error: str | None = None


def build(
    artifact: Artifact,
    settings: Settings,
    cache: Path,
    *,
    calibration: Calibration | None = None,
    timeout_s: float = BUILD_TIMEOUT_S,
    progress: Callable[[str, float], None] = lambda step, seconds: None,
    builder: tuple[str, ...] = _BUILDER,
) -> Path:
    """Return the folder of the engine with these settings for this machine's GPU, building it unless it is in `cache`.

    What was built has been loaded and tested by a process of its own before it gets its name: on the rows of the
    `calibration`, which INT8 needs, else on rows that are drawn, and against the FP32 reference. `progress` is told the
    step and the seconds since the start, at least once a second. Raises ModelError, in words, if the engine cannot be
    built, does not load, or takes longer than `timeout_s`.
    """
    request = Request(
        onnx=artifact.onnx,
        manifest=msgspec.json.format(msgspec.json.encode(artifact.manifest)) + b"\n",
        settings=settings,
        cache=str(cache),
        ranges=calibration.ranges if calibration else {},
        known=pack_known(_known(artifact, calibration)),
        token=secrets.token_hex(4),
    )
    step = "starting the builder"
    final = _Line()

    def heard(line: bytes) -> None:
        nonlocal step, final
        with contextlib.suppress(msgspec.DecodeError):  # a library that prints
            said = msgspec.json.decode(line, type=_Line)
            step = said.step or step
            final = said if said.built or said.error else final

    try:
        ended = converse(
            builder,
            msgspec.msgpack.encode(request),
            timeout_s=timeout_s,
            heard=heard,
            tick=lambda seconds: progress(step, seconds),
        )
    finally:
        for left in cache.glob(f".*.new-{request.token}"):
            shutil.rmtree(left, ignore_errors=True)
    if final.error:
        raise ModelError(final.error)
    if final.built:
        return Path(final.built)
    if ended.status is None:
        raise ModelError(
            f"The builder did not finish within {timeout_s:.0f} s and was stopped; nothing was written. Give it longer "
            "with --timeout, or ask for less with --buckets or --level."
        )
    raise ModelError(missing(ended.last_words) or _died(ended))


def draw(manifest: Manifest, n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Make up n rows of every magnitude that a model may meet, with histories of every length."""
    rng = np.random.default_rng(7)
    features = rng.exponential(2.0, (n, manifest.n_features)).astype(np.float32)
    history = rng.exponential(2.0, (n, *manifest.history)).astype(np.float32)
    history[:, :, 0] = rng.integers(1, 12, history.shape[:2])  # codes of types
    known = rng.integers(0, manifest.history[0] + 1, n)
    known[: n // 8] = manifest.history[0]
    history[np.arange(manifest.history[0]) >= known[:, None]] = 0
    return features, history


def _known(artifact: Artifact, calibration: Calibration | None) -> Known:
    if calibration:
        features, history = calibration.features, calibration.history
    else:
        features, history = draw(artifact.manifest, _KNOWN_ROWS)
    reference = OnnxModel(artifact)
    try:
        return Known(features, history, reference.infer(features, history))
    finally:
        reference.close()


def _died(ended: Ended) -> str:
    return (
        f"The builder {ended.how} without an answer; its last words: {ended.last_words} Nothing was written. Look at "
        "the machine's memory and the driver's log (dmesg), then build again."
    )
