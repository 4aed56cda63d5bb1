"""What an INT8 engine has to know of recorded traffic: how far inner values reach, and rows to be tested on."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engines.cpu import OnnxModel, magnitudes
from engines.manifest import Artifact
from engines.model import ModelError

try:
    from engines.tensorrt import precision
except ModuleNotFoundError as error:
    raise ModelError(
        f"Calibrating INT8 needs {error.name}, which is not installed. On a machine with an NVIDIA GPU: "
        "pip install 'tipstream[gpu]'"
    ) from error

_BATCH: Final = 64
_TESTED: Final = 64
_BATCHES: Final = 1000
_FEWEST: Final = 500


class Calibration(NamedTuple):
    """Taken from traffic, for one model."""

    ranges: dict[str, float]
    """Largest magnitude of every value that INT8 quantises, by name."""
    features: NDArray[np.float32]
    """(n, F) rows to test the engine on, n <= 64: made-up ones reach beyond the ranges, where INT8 must be wrong."""
    history: NDArray[np.float32]
    """(n, L, C) with fewer events from row to row, so that engines for a shorter history find rows, too."""


def read_calibration(artifact: Artifact, traffic: Path) -> Calibration:
    """Calibrate on the labelled set in `traffic`: up to 64,000 rows spread over it.

    Raises ModelError for fewer than 32,000 and for another feature catalogue.
    """
    from engines.train.dataset import concatenate, read  # brings PyArrow, which those who have rows do without

    facts, parts = read(traffic)
    if facts.features != artifact.manifest.features:
        raise ModelError(
            f"{traffic} was computed by feature catalogue {facts.features}, but the model takes "
            f"{artifact.manifest.features}. Make the set again with `tipstream-replay dataset`."
        )
    rows = concatenate(parts)
    batches = min(_BATCHES, len(rows.time_ms) // _BATCH)
    if batches < _FEWEST:
        raise ModelError(
            f"{traffic} holds {len(rows.time_ms):,} rows; calibration needs {_FEWEST * _BATCH:,}. Record more traffic."
        )
    order = np.random.default_rng(1).permutation(len(rows.time_ms))[: batches * _BATCH]
    return calibrate(artifact, rows.features[order], rows.history[order])


def calibrate(artifact: Artifact, features: NDArray[np.float32], history: NDArray[np.float32]) -> Calibration:
    """Calibrate on n rows: features (n, F), history (n, L, C)."""
    values = sorted(set(precision.int8_inputs(artifact.onnx).values()))
    watched = precision.with_outputs(artifact.onnx, values)
    pieces = [slice(at, at + _BATCH) for at in range(0, len(features), _BATCH)]
    largest = magnitudes(watched, values, ({"features": features[at], "history": history[at]} for at in pieces))
    reference = OnnxModel(artifact)
    try:
        p_tip = np.concatenate([reference.infer(features[at], history[at]).p_tip[:, -1] for at in pieces])
    finally:
        reference.close()
    # Where p is next to nothing, as it is for most rows, a broken plan could pass: the likeliest rows tell.
    likeliest = np.argsort(-p_tip, kind="stable")[:_TESTED]
    kept = history[likeliest]
    kept[np.arange(kept.shape[1]) >= np.linspace(kept.shape[1], 0, len(likeliest))[:, None]] = 0
    return Calibration(dict(zip(values, largest, strict=True)), features[likeliest], kept)
