"""What INT8 must be able to hold: the ranges of a model's inner values over recorded traffic."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from engines.cpu import magnitudes
from engines.manifest import Artifact
from engines.model import ModelError
from engines.tensorrt import precision
from engines.train.dataset import concatenate, read

_BATCH: Final = 64
_BATCHES: Final = 1000
_FEWEST: Final = 500


def ranges(artifact: Artifact, traffic: Path) -> dict[str, float]:
    """Return the largest magnitude of every value that INT8 would quantise, by name.

    Looks at up to 1,000 batches of 64 rows spread over the set in `traffic`; raises ModelError for fewer than 500.
    """
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
    order = np.random.default_rng(1).permutation(len(rows.time_ms))[: batches * _BATCH].reshape(batches, _BATCH)
    values = sorted(set(precision.int8_inputs(artifact.onnx).values()))
    watched = precision.with_outputs(artifact.onnx, values)
    inputs = ({"features": rows.features[which], "history": rows.history[which]} for which in order)
    return dict(zip(values, magnitudes(watched, values, inputs), strict=True))
