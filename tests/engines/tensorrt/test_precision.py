"""Models rewritten for another precision or history length give the same scores within what that precision can hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import engines
from engines.cpu import OnnxModel
from engines.manifest import Artifact, read, read_manifest
from engines.model import ModelError, Scores
from engines.tensorrt import precision
from engines.tensorrt.calibrate import calibrate
from tests.engines import small_models
from tests.engines.gate.made import Batch

REFERENCE = Path(engines.__file__).parent / "models" / "reference"


@pytest.fixture(scope="module")
def reference() -> Artifact:
    return read(REFERENCE, features=read_manifest(REFERENCE).features)


def rows(model: Artifact, n: int = 256) -> Batch:
    rng = np.random.default_rng(6)
    features = rng.exponential(2.0, (n, model.manifest.n_features)).astype(np.float32)
    history = rng.exponential(2.0, (n, *model.manifest.history)).astype(np.float32)
    history[:, :, 0] = rng.integers(0, 11, history.shape[:2])
    return features, history


def score(model: Artifact, content: bytes, batch: Batch) -> Scores:
    """Run a rewritten graph; the manifest is for the ports' shapes alone."""
    return OnnxModel(Artifact(model.manifest, content)).infer(*batch)


def types(content: bytes) -> dict[str, int]:
    """Element type of every weight by name."""
    return {tensor.name: tensor.data_type for tensor in onnx.load_from_string(content).graph.initializer}


def test_fp16_is_close_and_its_ports_stay_fp32(reference: Artifact) -> None:
    batch = rows(reference)
    exact, half = score(reference, reference.onnx, batch), score(reference, precision.half(reference.onnx), batch)
    assert 0 < np.abs(half.p_tip - exact.p_tip).max() < 2e-3
    assert TensorProto.FLOAT16 in types(precision.half(reference.onnx)).values()


def test_what_is_fragile_stays_fp32(reference: Artifact) -> None:
    kept = precision.fp32_nodes(reference.onnx)
    by_name = {node.name: node for node in onnx.load_from_string(reference.onnx).graph.node}
    assert {"Softmax", "ReduceSum", "Sigmoid", "Exp", "Clip"} & {node.op_type for node in by_name.values()} <= {
        by_name[name].op_type for name in kept
    }
    assert not any(by_name[name].op_type in ("Softmax", "Sigmoid", "Exp", "Clip") for name in set(by_name) - kept)
    weighted = [node.name for node in by_name.values() if node.op_type in ("MatMul", "Gemm")]
    assert weighted[-1] in kept  # the head
    assert set(weighted) - kept


def test_a_weight_that_fp16_cannot_hold_is_named(reference: Artifact) -> None:
    proto = onnx.load_from_string(reference.onnx)
    lowered = set(precision.int8_inputs(reference.onnx))
    node = next(node for node in proto.graph.node if node.name in lowered)
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == node.input[1])
    array = numpy_helper.to_array(weight).copy()
    array.flat[0] = 1e6
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    with pytest.raises(ModelError, match=rf"Weight `{weight.name}` does not fit FP16. Build .* --precision fp32"):
        precision.half(proto.SerializeToString())


def test_int8_quantises_the_large_layers_and_stays_in_reach(reference: Artifact) -> None:
    batch = rows(reference)
    ranges = calibrate(reference, *batch).ranges
    content = precision.quantised(reference.onnx, ranges)
    ops = [node.op_type for node in onnx.load_from_string(content).graph.node]
    layers = len(precision.int8_inputs(reference.onnx))
    assert layers > 0
    assert ops.count("QuantizeLinear") == layers + len(ranges)
    exact, low = score(reference, reference.onnx, batch), score(reference, content, batch)
    assert 0 < np.abs(low.p_tip - exact.p_tip).max() < 0.2


def test_int8_without_ranges_or_layers_is_refused(reference: Artifact) -> None:
    with pytest.raises(ModelError, match=r"INT8 needs the range of .* Give recorded traffic with --traffic"):
        precision.quantised(reference.onnx, {})
    with pytest.raises(ModelError, match="no layer that INT8 could speed up"):
        precision.quantised(small_models.artifact().onnx, {})


def test_any_history_length_gives_what_the_filled_one_gives(reference: Artifact) -> None:
    features, history = rows(reference)
    content = precision.any_length(reference.onnx)
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for length in (1, 16, 32):
        short = history.copy()
        short[:, length:] = 0
        p_tip, value = session.run(["p_tip", "value"], {"features": features, "history": short[:, :length]})
        exact = score(reference, reference.onnx, (features, short))
        np.testing.assert_array_equal(p_tip, exact.p_tip)
        np.testing.assert_array_equal(value, exact.value)


def test_rewriting_gives_the_same_bytes_every_time(reference: Artifact) -> None:
    assert precision.half(reference.onnx) == precision.half(reference.onnx)
    assert precision.any_length(reference.onnx) == precision.any_length(reference.onnx)


def test_what_is_no_model_is_named() -> None:
    with pytest.raises(ModelError, match="This is no ONNX model"):
        precision.opset(b"nonsense")
    assert precision.opset(small_models.artifact().onnx) == 17
