"""The master ONNX file rewritten: in FP16 where that is safe, with explicit INT8 steps, with a second history length.

What stays FP32 everywhere: all that comes before the first weights (raw features are large), softmax, reductions,
normalisation, and the head, which is the last weighted layer and what follows it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

from engines.model import ModelError

_WEIGHTED: Final = frozenset({"MatMul", "Gemm"})
#: FP16 if what they work on already is.
_CARRIES: Final = frozenset({"Add", "Mul", "Relu", "Gelu", "LeakyRelu"})
_FP16_MAX: Final = 65504.0
#: A layer with fewer inputs than this gains nothing from INT8, which costs two steps of its own.
_INT8_MIN_INPUTS: Final = 32


def opset(model: bytes) -> int:
    """Return the ONNX opset of a model; raises ModelError for bytes that are none."""
    return next(int(entry.version) for entry in _parse(model).opset_import if entry.domain in ("", "ai.onnx"))


def half(model: bytes) -> bytes:
    """Return the model with FP16 where that is safe and FP32 elsewhere, casts between; its ports stay FP32."""
    proto = _parse(model)
    graph = proto.graph
    lowered, values = _lowered(graph)
    weights = _weights(graph)
    casts: dict[tuple[str, int], str] = {}
    nodes: list[NodeProto] = []

    def cast(value: str, to: int) -> str:
        name = casts.get((value, to))
        if name is None:
            name = casts[value, to] = f"{value}_{'fp16' if to == TensorProto.FLOAT16 else 'fp32'}"
            nodes.append(helper.make_node("Cast", [value], [name], name=name, to=to))
        return name

    def lower(value: str) -> str:
        if value in values or not value:
            return value
        if value not in weights:
            return cast(value, TensorProto.FLOAT16)
        name = f"{value}_fp16"
        if (value, TensorProto.FLOAT16) not in casts:
            casts[value, TensorProto.FLOAT16] = name
            array = weights[value]
            if np.abs(array).max(initial=0) > _FP16_MAX:
                raise ModelError(f"Weight `{value}` does not fit FP16. Build this model with --precision fp32.")
            graph.initializer.append(numpy_helper.from_array(array.astype(np.float16), name))
        return name

    for node in graph.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        floats = 1 if node.op_type == "Gather" else len(node.input)
        for i, value in enumerate(node.input):
            if node.name in lowered:
                copy.input[i] = lower(value) if i < floats else value
            elif value in values:
                copy.input[i] = cast(value, TensorProto.FLOAT)
        nodes.append(copy)
    _replace(graph, nodes)
    return _serialise(proto)


def fp32_nodes(model: bytes) -> frozenset[str]:
    """Return the names of the nodes that `half` leaves in FP32."""
    graph = _parse(model).graph
    lowered, _ = _lowered(graph)
    steps = frozenset({"QuantizeLinear", "DequantizeLinear"})
    return frozenset(node.name for node in graph.node if node.op_type not in steps) - lowered


def int8_inputs(model: bytes) -> dict[str, str]:
    """Return the weighted layers that `quantised` changes: node name -> name of the value whose range it needs."""
    graph = _parse(model).graph
    lowered, _ = _lowered(graph)
    weights = _weights(graph)
    return {
        node.name: node.input[0]
        for node in graph.node
        if node.name in lowered
        and node.op_type in _WEIGHTED
        and node.input[1] in weights
        and _inputs_of(node, weights[node.input[1]]) >= _INT8_MIN_INPUTS
    }


def with_outputs(model: bytes, values: Collection[str]) -> bytes:
    """Return the model with further float outputs, so that their range can be watched."""
    proto = _parse(model)
    present = {port.name for port in proto.graph.output}
    for value in sorted(set(values) - present):
        proto.graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, None))
    return bytes(proto.SerializeToString())  # the checker would ask for the shapes


def quantised(model: bytes, ranges: Mapping[str, float]) -> bytes:
    """Return the model with explicit quantise and dequantise steps, symmetric, before its larger weighted layers.

    `ranges`: value name -> largest magnitude that matters, for every value that `int8_inputs` names. Weights are
    quantised by output channel. Scales are FP32, which every TensorRT from 8.6 on takes.
    """
    layers = int8_inputs(model)
    if not layers:
        raise ModelError("This model has no layer that INT8 could speed up. Build it with --precision fp16.")
    missing = sorted(set(layers.values()) - set(ranges))
    if missing:
        raise ModelError(f"INT8 needs the range of {', '.join(missing)}. Give recorded traffic with --traffic.")
    proto = _parse(model)
    graph = proto.graph
    weights = _weights(graph)
    nodes: list[NodeProto] = []
    done: dict[str, str] = {}

    def quantise(value: str, scale: NDArray[np.float32], axis: int | None) -> str:
        if value in done:
            return done[value]
        names = {part: f"{value}_{part}" for part in ("scale", "zero", "int8", "back")}
        graph.initializer.append(numpy_helper.from_array(scale, names["scale"]))
        graph.initializer.append(numpy_helper.from_array(np.zeros(scale.shape, np.int8), names["zero"]))
        where: dict[str, Any] = {} if axis is None else {"axis": axis}
        for op, source, target in (
            ("QuantizeLinear", value, names["int8"]),
            ("DequantizeLinear", names["int8"], names["back"]),
        ):
            inputs = [source, names["scale"], names["zero"]]
            nodes.append(helper.make_node(op, inputs, [target], name=target, **where))
        done[value] = names["back"]
        return names["back"]

    for node in graph.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        if node.name in layers:
            weight = weights[node.input[1]]
            axis = 0 if _transposed(node) else 1
            per_channel = np.abs(weight).max(axis=1 - axis).clip(min=1e-8).astype(np.float32) / np.float32(127)
            bound = max(ranges[node.input[0]], 1e-8)
            copy.input[0] = quantise(node.input[0], np.array(bound / 127, np.float32), None)
            copy.input[1] = quantise(node.input[1], per_channel, axis)
        nodes.append(copy)
    _replace(graph, nodes)
    return _serialise(proto)


def any_length(model: bytes) -> bytes:
    """Return the model with a dynamic history length: what is given is filled up with zeros inside the graph.

    An empty place of the history is a row of zeros, so a short history gives the scores that the filled one gives.
    """
    proto = _parse(model)
    graph = proto.graph
    port = next(port for port in graph.input if port.name == "history")
    dims = port.type.tensor_type.shape.dim
    length, channels = dims[1].dim_value, dims[2].dim_value
    dims[1].ClearField("dim_value")
    dims[1].dim_param = "length"
    constants = {
        "history_axis": np.array([1], np.int64),
        "history_length": np.array([length], np.int64),
        "history_before": np.array([0, 0, 0, 0], np.int64),
        "history_after": np.array([0], np.int64),
        "history_zero": np.array(0, np.float32),
        "history_shape": np.array([-1, length, channels], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items())
    nodes = [
        helper.make_node("Shape", ["history"], ["history_given"]),
        helper.make_node("Gather", ["history_given", "history_axis"], ["history_known"], axis=0),
        helper.make_node("Sub", ["history_length", "history_known"], ["history_empty"]),
        helper.make_node("Concat", ["history_before", "history_empty", "history_after"], ["history_pads"], axis=0),
        helper.make_node("Pad", ["history", "history_pads", "history_zero"], ["history_filled"]),
        helper.make_node("Reshape", ["history_filled", "history_shape"], ["history_full"]),
    ]
    for node in nodes:
        node.name = node.output[0]
    for node in graph.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        for i, value in enumerate(node.input):
            if value == "history":
                copy.input[i] = "history_full"
        nodes.append(copy)
    _replace(graph, nodes)
    return _serialise(proto)


def _lowered(graph: GraphProto) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of the nodes that may run in FP16, and of the values that they give."""
    weights = _weights(graph)
    head = _head(graph)
    names: set[str] = set()
    values: set[str] = set()
    for node in graph.node:
        floats = [value for value in node.input if value and value not in weights]
        table = node.op_type == "Gather" and node.input[0] in weights and weights[node.input[0]].ndim > 1
        carried = node.op_type in _CARRIES and any(v in values for v in floats) and all(v in values for v in floats)
        if node.name not in head and (node.op_type in _WEIGHTED or table or carried):
            names.add(node.name)
            values.update(node.output)
    return frozenset(names), frozenset(values)


def _head(graph: GraphProto) -> frozenset[str]:
    """Return the names of the nodes that no weighted layer follows: the last weighted layer and all after it."""
    users: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for value in node.input:
            users.setdefault(value, []).append(node)
    followed: set[str] = set()
    for node in reversed(graph.node):
        after = [user for value in node.output for user in users.get(value, [])]
        if any(user.op_type in _WEIGHTED or user.name in followed for user in after):
            followed.add(node.name)
    return frozenset(node.name for node in graph.node) - followed


def _weights(graph: GraphProto) -> dict[str, NDArray[Any]]:
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    }


def _transposed(node: NodeProto) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def _inputs_of(node: NodeProto, weight: NDArray[Any]) -> int:
    return int(weight.shape[1 if _transposed(node) else 0])


def _parse(model: bytes) -> ModelProto:
    try:
        proto = onnx.load_from_string(model)
    except Exception as error:  # protobuf's errors share no base class with anything
        raise ModelError(f"This is no ONNX model ({error}). Train or copy the model again.") from error
    for i, node in enumerate(proto.graph.node):
        node.name = node.name or f"node_{i}"
    return proto


def _replace(graph: GraphProto, nodes: list[NodeProto]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)


def _serialise(proto: ModelProto) -> bytes:
    del proto.graph.value_info[:]  # types that no longer hold
    used = {value for node in proto.graph.node for value in node.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    checker.check_model(proto)
    return bytes(proto.SerializeToString(deterministic=True))
