"""The master ONNX of a trained network, written node by node.

Few, plain operators (all of them in TensorRT 8.6), stable names, the same bytes for the same weights. The graph follows
`Network` line by line; a test holds the two together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, checker, helper, numpy_helper

from engines.train.network import CLIP, MAX_LOG_AMOUNT, Network

OPSET = 17
IR_VERSION = 8  # the one that goes with opset 17; TensorRT 8.6's parser knows no later one


class _Graph:
    """Nodes and weights, collected in order."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def weight(self, name: str, value: NDArray[np.float32] | NDArray[np.int64]) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def node(self, op: str, *inputs: str, out: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=out, **attributes))
        return out


def onnx_bytes(network: Network) -> bytes:
    """Serialise a network: inputs features (B, F), history (B, L, C); outputs p_tip (B, 2), value (B); all FP32."""
    weights = {name: tensor.detach().cpu().numpy() for name, tensor in network.state_dict().items()}
    length, channels = len(weights["position"]), len(weights["channel_scale"])
    graph = _Graph()
    _pool_history(graph, weights)
    _score(graph, weights)
    proto = helper.make_graph(
        graph.nodes,
        "tipstream",
        [_port("features", len(weights["mean"])), _port("history", length, channels)],
        [_port("p_tip", 2), _port("value")],
        graph.weights,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _port(name: str, *shape: int) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])


def _pool_history(graph: _Graph, weights: dict[str, NDArray[np.float32]]) -> None:
    """Write history (B, L, C) -> pooled (B, D)."""
    graph.weight("type_channel", np.array(0, np.int64))
    graph.weight("type_low", np.array(0, np.float32))
    graph.weight("type_high", np.array(len(weights["kind.weight"]) - 1, np.float32))
    graph.weight("type_tokens", weights["kind.weight"])
    graph.weight("channel_weight", (weights["token.weight"] * weights["channel_scale"]).T)
    graph.weight("position", weights["position"])
    graph.weight("attention_weight", weights["attention.weight"].T)
    graph.weight("pooled_axis", np.array([1], np.int64))
    graph.node("Gather", "history", "type_channel", out="types", axis=2)
    graph.node("Clip", "types", "type_low", "type_high", out="types_in_range")
    graph.node("Cast", "types_in_range", out="type_codes", to=TensorProto.INT32)
    graph.node("Gather", "type_tokens", "type_codes", out="by_type", axis=0)
    graph.node("MatMul", "history", "channel_weight", out="by_channel")
    graph.node("Add", "by_channel", "position", out="placed")
    graph.node("Add", "placed", "by_type", out="token_sum")
    graph.node("Relu", "token_sum", out="tokens")
    graph.node("MatMul", "tokens", "attention_weight", out="attention_logits")
    graph.node("Softmax", "attention_logits", out="attention", axis=1)
    graph.node("Mul", "attention", "tokens", out="weighted")
    graph.node("ReduceSum", "weighted", "pooled_axis", out="pooled", keepdims=0)


def _score(graph: _Graph, weights: dict[str, NDArray[np.float32]]) -> None:
    """Write features (B, F) and pooled (B, D) -> p_tip (B, 2), value (B)."""
    for name in ("mean", "inverse_std"):
        graph.weight(name, weights[name])
    graph.weight("clip_low", np.array(-CLIP, np.float32))
    graph.weight("clip_high", np.array(CLIP, np.float32))
    graph.node("Sub", "features", "mean", out="centred")
    graph.node("Mul", "centred", "inverse_std", out="standardised")
    graph.node("Clip", "standardised", "clip_low", "clip_high", out="standard")
    graph.node("Concat", "standard", "pooled", out="body_in", axis=1)
    below = "body_in"
    for name, layer in (("body_0", "body.0"), ("body_1", "body.2")):
        graph.weight(f"{name}_weight", weights[f"{layer}.weight"])
        graph.weight(f"{name}_bias", weights[f"{layer}.bias"])
        graph.node("Gemm", below, f"{name}_weight", f"{name}_bias", out=f"{name}_sum", transB=1)
        below = graph.node("Relu", f"{name}_sum", out=f"{name}_out")
    graph.weight("head_weight", weights["head.weight"])
    graph.weight("head_bias", weights["head.bias"])
    graph.weight("calibration_scale", weights["scale"])
    graph.weight("calibration_shift", weights["shift"])
    graph.node("Gemm", below, "head_weight", "head_bias", out="head_raw", transB=1)
    graph.node("Mul", "head_raw", "calibration_scale", out="head_scaled")
    graph.node("Add", "head_scaled", "calibration_shift", out="head")
    for column, name in enumerate(("tip", "soon", "log_amount")):
        graph.weight(f"{name}_column", np.array([column], np.int64))
        graph.node("Gather", "head", f"{name}_column", out=f"{name}_logit", axis=1)
    graph.weight("log_amount_low", np.array(0, np.float32))
    graph.weight("log_amount_high", np.array(MAX_LOG_AMOUNT, np.float32))
    graph.node("Sigmoid", "tip_logit", out="p_longest")
    graph.node("Sigmoid", "soon_logit", out="p_soon")
    graph.node("Mul", "p_longest", "p_soon", out="p_shorter")
    graph.node("Concat", "p_shorter", "p_longest", out="p_tip", axis=1)
    graph.node("Clip", "log_amount_logit", "log_amount_low", "log_amount_high", out="log_amount")
    graph.node("Exp", "log_amount", out="amount")
    graph.node("Mul", "p_longest", "amount", out="value_column")
    graph.weight("value_axis", np.array([1], np.int64))
    graph.node("Squeeze", "value_column", "value_axis", out="value")
