"""PyTorch's figures for the reference model on a GPU: eager, and `torch.compile` with CUDA graphs; rows in, scores out.

python -m tests.benchmarks.gpu_torch [--out FOLDER]

Needs PyTorch with CUDA, ONNX and NumPy, and nothing else: it may run in another environment than the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

try:
    import numpy as np
    import onnx
    import torch
    from onnx import numpy_helper
except ImportError as error:
    raise SystemExit(f"{error}: this needs PyTorch with CUDA, ONNX and NumPy.") from None

import engines
from engines.train.network import Network, Shape, Trees
from tests.benchmarks.arguments import writable

MODEL: Final = Path(engines.__file__).parent / "models" / "reference" / "model.onnx"
BUCKETS: Final = (1, 64, 512)
_RUNS: Final = 1000


def network() -> tuple[Network, int, tuple[int, int]]:
    """Give the trained network of the ONNX file, its number of features, and its history's shape."""
    graph = onnx.load(MODEL).graph
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    length, tokens = found["position"].shape
    channels = found["channel_weight"].shape[0]
    hidden = (found["body_0_weight"].shape[0], found["body_1_weight"].shape[0])
    n_features, codes = len(found["mean"]), found["type_tokens"].shape[0]
    pieces, heads = len(found["piece_feature"]), found["attention_weight"].shape[1]
    # The members are one in the file, zeros between them included: what is timed is what the graph computes.
    made = Network(Shape(n_features, (length, channels), codes, pieces, tokens, heads, 1, hidden))
    weights = {
        "mean": found["mean"],
        "inverse_std": found["inverse_std"],
        "channel_scale": np.ones(channels, np.float32),  # is part of the weights in the file
        "scale": found["calibration_scale"],
        "shift": found["calibration_shift"],
        "kind.weight": found["type_tokens"],
        "token.weight": found["channel_weight"].T,
        "position": found["position"],
        **{name: found[name] for name in ("piece_feature", "piece_low", "piece_inverse_width")},
        "mix.weight": found["mix_weight"].T,
        "mix.bias": found["mix_bias"],
        "attention.weight": found["attention_weight"].T,
        "body.weight": found["body_0_weight"],
        "body.bias": found["body_0_bias"],
        "middle.weight": found["body_1_weight"].T[None],
        "middle.bias": found["body_1_bias"][None, None],
        "head.weight": found["head_weight"].T[None],
        "head.bias": found["head_bias"][None, None],
    }
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in weights.items()}
    missing, _ = made.load_state_dict(tensors, strict=False)
    assert all(name.startswith("tree_") or name in ("share", "floor") for name in missing)
    depth, trees = found["tree_shape"].tolist()[1:]
    feature, border = (found[f"tree_{name}"].reshape(depth, trees) for name in ("feature", "border"))
    share = found["tree_share"] / found["calibration_scale"][0]
    made.plant(Trees(feature, border, found["tree_leaf"].T), float(share), float(found["tree_floor"]))
    return made.eval().cuda(), n_features, (length, channels)


def timed(model: Callable[..., Any], size: int, n_features: int, history: tuple[int, int]) -> dict[str, float]:
    """Microseconds from arrays on the host to scores on the host."""
    rng = np.random.default_rng(1)
    features = torch.from_numpy(rng.exponential(2.0, (size, n_features)).astype(np.float32)).pin_memory()
    past = torch.from_numpy(rng.exponential(2.0, (size, *history)).astype(np.float32)).pin_memory()

    def call() -> None:
        p_tip, value = model(features.cuda(non_blocking=True), past.cuda(non_blocking=True))
        p_tip.cpu()
        value.cpu()

    seconds = np.empty(_RUNS)
    with torch.inference_mode():
        for _ in range(50):
            call()
        for i in range(_RUNS):
            began = time.perf_counter()
            call()
            seconds[i] = time.perf_counter() - began
    return {f"p{q}": round(float(np.percentile(seconds, q)) * 1e6, 1) for q in (50, 99)}


def main() -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu_torch")
    parser.add_argument("--out", type=writable, default=os.environ.get("OUT", "var"), help="for torch.json")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("PyTorch finds no GPU here: run this on a machine with one.", file=sys.stderr)
        return 2
    model, n_features, history = network()
    report: dict[str, Any] = {"torch": torch.__version__, "gpu": torch.cuda.get_device_name()}
    ways: dict[str, Callable[..., Any]] = {
        "eager": model,
        "compile": torch.compile(model, mode="reduce-overhead", dynamic=False),
    }
    for name, way in ways.items():
        report[name] = {}
        for size in BUCKETS:
            try:
                report[name][str(size)] = timed(way, size, n_features, history)
            except Exception as error:  # torch.compile needs a compiler on the machine
                report[name][str(size)] = {"error": str(error)[:200]}
            print(f"{name} {size}: {report[name][str(size)]} us", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "torch.json").write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
