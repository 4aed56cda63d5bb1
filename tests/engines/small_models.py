"""Small hand-made models, so that the engines' tests need neither PyTorch nor a trained file."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engines.manifest import MANIFEST_FILE, ONNX_FILE, Artifact, Manifest, Prior, Tier

FINGERPRINT = "0123456789abcdef"
COLUMNS = ("viewer_tips_60d", "pair_tips_60d", "room_comments_1m", "viewer_watch_ms", "hour")
HISTORY = (4, 3)


def graph(
    *,
    n_features: int = len(COLUMNS),
    history: tuple[int, int] = HISTORY,
    names: tuple[str, str, str, str] = ("features", "history", "p_tip", "value"),
    batch: str | int = "batch",
    value_scale: float = 100.0,
) -> bytes:
    """Return an ONNX model: two probabilities from a logistic over features and history, the value from the second."""
    rng = np.random.default_rng(5)
    length, channels = history
    weights: dict[str, NDArray[Any]] = {
        "w": rng.normal(0, 0.3, (n_features, 2)).astype(np.float32),
        "v": rng.normal(0, 0.3, (length * channels, 2)).astype(np.float32),
        "flat": np.array([-1, length * channels], np.int64),
        "cumulate": np.array([[0.3, 1.0], [0.0, 0.0]], np.float32),
        "last": np.array([1], np.int64),
        "scale": np.array(value_scale, np.float32),
        "axis": np.array([1], np.int64),
    }
    features, hist, p_tip, value = names
    nodes = [
        helper.make_node("MatMul", [features, "w"], ["a"]),
        helper.make_node("Reshape", [hist, "flat"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["s"]),
        helper.make_node("MatMul", ["s", "cumulate"], [p_tip]),
        helper.make_node("Gather", [p_tip, "last"], ["p_last"], axis=1),
        helper.make_node("Squeeze", ["p_last", "axis"], ["p_flat"]),
        helper.make_node("Mul", ["p_flat", "scale"], [value]),
    ]
    proto = helper.make_graph(
        nodes,
        "small",
        [
            helper.make_tensor_value_info(features, TensorProto.FLOAT, [batch, n_features]),
            helper.make_tensor_value_info(hist, TensorProto.FLOAT, [batch, length, channels]),
        ],
        [
            helper.make_tensor_value_info(p_tip, TensorProto.FLOAT, [batch, 2]),
            helper.make_tensor_value_info(value, TensorProto.FLOAT, [batch]),
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def manifest(onnx_bytes: bytes) -> Manifest:
    """Return the manifest that belongs to `graph()`."""
    return Manifest(
        name="small",
        version="1",
        sha256=hashlib.sha256(onnx_bytes).hexdigest(),
        features=FINGERPRINT,
        columns=COLUMNS,
        history=HISTORY,
        horizons_s=(60, 600),
        tiers=(Tier("none", 0.0), Tier("high", 0.1)),
        prior=Prior(-4.0, {"viewer_tips_60d": 1.0, "pair_tips_60d": 0.5}, (0.2, 1.0), 500.0),
        trained_on="nothing",
        created="2021-07-01T00:00:00Z",
    )


def artifact(**options: object) -> Artifact:
    """Graph and manifest together; options as for `graph`."""
    onnx_bytes = graph(**options)  # type: ignore[arg-type]
    return Artifact(manifest(onnx_bytes), onnx_bytes)


def write(folder: Path, model: Artifact) -> Path:
    """Write a model folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ONNX_FILE).write_bytes(model.onnx)
    (folder / MANIFEST_FILE).write_bytes(msgspec.json.encode(model.manifest))
    return folder


def with_external_data(model: Artifact, folder: Path) -> Artifact:
    """Return the same model with its weights moved to a file beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    proto = onnx.load_from_string(model.onnx)
    onnx.save(proto, folder / "out.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    onnx_bytes = (folder / "out.onnx").read_bytes()
    return Artifact(manifest(onnx_bytes), onnx_bytes)
