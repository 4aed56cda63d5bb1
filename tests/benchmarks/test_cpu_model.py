"""The reference model on ONNX Runtime, one thread: rows in, scores out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engines
from engines.cpu import OnnxModel
from engines.manifest import read_manifest

REFERENCE = Path(engines.__file__).parent / "models" / "reference"


@pytest.fixture(scope="module")
def model() -> OnnxModel:
    return OnnxModel.load(REFERENCE, features=read_manifest(REFERENCE).features)


@pytest.mark.parametrize("n", [1, 8, 64, 256, 1024])
def test_infer(model: OnnxModel, benchmark: Any, n: int) -> None:
    rng = np.random.default_rng(1)
    features = rng.exponential(3.0, (n, model.manifest.n_features)).astype(np.float32)
    history = rng.exponential(3.0, (n, *model.manifest.history)).astype(np.float32)
    benchmark.extra_info["n"] = n
    benchmark(model.infer, features, history)
    benchmark.extra_info["us_per_event"] = benchmark.stats.stats.median / n * 1e6
