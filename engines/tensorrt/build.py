"""Build engines from anywhere, the service included: a process of its own does the work. Imports no GPU package."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from engines.cpu import OnnxModel
from engines.manifest import Artifact, Manifest
from engines.model import ModelError
from engines.tensorrt.plan import Known, Request, Settings, pack_known

BUILD_TIMEOUT_S: Final = 900.0
_KNOWN_ROWS: Final = 64
_BUILDER: Final = (sys.executable, "-m", "engines.tensorrt.builder")
_STDERR_KEPT: Final = 4000


class _Line(msgspec.Struct):
    step: str | None = None
    built: str | None = None
    error: str | None = None


def build(
    artifact: Artifact,
    settings: Settings,
    cache: Path,
    *,
    ranges: Mapping[str, float] | None = None,
    known: Known | None = None,
    timeout_s: float = BUILD_TIMEOUT_S,
    progress: Callable[[str, float], None] = lambda step, seconds: None,
    builder: tuple[str, ...] = _BUILDER,
) -> Path:
    """Return the folder of the engine with these settings for this machine's GPU, building it unless it is in `cache`.

    `progress` is told the step and the seconds since the start, at least once a second. `known` are the rows of the
    engine's self-test; without any, rows are drawn and the FP32 reference scores them. Raises ModelError, in words, if
    it cannot be built or takes longer than `timeout_s`.
    """
    request = Request(
        onnx=artifact.onnx,
        manifest=msgspec.json.format(msgspec.json.encode(artifact.manifest)) + b"\n",
        settings=settings,
        cache=str(cache),
        ranges=dict(ranges or {}),
        known=pack_known(known or _draw(artifact)),
    )
    began = time.monotonic()
    with subprocess.Popen(  # noqa: S603  our own module, run by our own interpreter
        builder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_environment()
    ) as process:
        try:
            answer, errors = _converse(process, msgspec.msgpack.encode(request), began, timeout_s, progress)
        finally:
            process.kill()
            for left in cache.glob(f".*.new-{process.pid}"):
                shutil.rmtree(left, ignore_errors=True)
    if answer is None:
        raise ModelError(
            f"The builder did not finish within {timeout_s:.0f} s and was stopped; nothing was written. Give it longer "
            "with --timeout, or ask for less with --buckets or --level."
        )
    if answer.error:
        raise ModelError(answer.error)
    if not answer.built:
        last = errors.strip().splitlines()[-1:] or ["it said nothing"]
        raise ModelError(_died(process.returncode, last[0]))
    return Path(answer.built)


def _draw(artifact: Artifact) -> Known:
    """Rows of every magnitude that the model may meet, the second half without any history."""
    manifest: Manifest = artifact.manifest
    rng = np.random.default_rng(7)
    features = rng.exponential(2.0, (_KNOWN_ROWS, manifest.n_features)).astype(np.float32)
    history = rng.exponential(2.0, (_KNOWN_ROWS, *manifest.history)).astype(np.float32)
    history[:, :, 0] = rng.integers(1, 12, history.shape[:2])  # codes of types
    known = rng.integers(0, manifest.history[0] + 1, _KNOWN_ROWS)
    known[: _KNOWN_ROWS // 8] = manifest.history[0]
    history[np.arange(manifest.history[0]) >= known[:, None]] = 0
    reference = OnnxModel(artifact)
    try:
        return Known(features, history, reference.infer(features, history))
    finally:
        reference.close()


def _converse(
    process: subprocess.Popen[bytes],
    request: bytes,
    began: float,
    timeout_s: float,
    progress: Callable[[str, float], None],
) -> tuple[_Line | None, str]:
    """Send the request and follow the answer to its end; None for an answer that did not come in time."""
    assert process.stdin
    assert process.stdout
    assert process.stderr
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:  # a builder that died says why below
        pipe.write(request)
    final = _Line()
    step = "starting the builder"
    rest = errors = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stderr, selectors.EVENT_READ)
        while selector.get_map():
            elapsed = time.monotonic() - began
            if elapsed > timeout_s:
                return None, ""
            progress(step, elapsed)
            for ready, _ in selector.select(timeout=min(1.0, timeout_s - elapsed + 0.001)):
                content = os.read(ready.fd, 65536)
                if not content:
                    selector.unregister(ready.fileobj)
                elif ready.fileobj is process.stderr:
                    errors = (errors + content)[-_STDERR_KEPT:]
                else:
                    *lines, rest = (rest + content).split(b"\n")
                    for line in lines:
                        with contextlib.suppress(msgspec.DecodeError):  # a library that prints
                            said = msgspec.json.decode(line, type=_Line)
                            step = said.step or step
                            final = said if said.built or said.error else final
    process.wait()
    return final, errors.decode(errors="replace")


def _died(status: int, last: str) -> str:
    for module in ("tensorrt", "cuda", "onnx"):
        if f"No module named '{module}" in last:
            return (
                f"Building an engine needs {module}, which is not installed. On a machine with an NVIDIA GPU: "
                "pip install 'tipstream[gpu]'"
            )
    if "cannot open shared object file" in last:
        return f"TensorRT's libraries cannot be loaded ({last}). Install TensorRT whole: pip install 'tipstream[gpu]'"
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return (
        f"The builder {how} without an answer; its last words: {last} Nothing was written. Look at the machine's "
        "memory and the driver's log (dmesg), then build again."
    )


def _environment() -> dict[str, str]:
    """Give the builder this process's, with the path to this package, wherever it was started from."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
