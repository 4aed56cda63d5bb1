"""The master ONNX of a trained network, written node by node.

Few, plain operators (all of them in TensorRT 8.6), stable names, the same bytes for the same weights. The graph
follows `Network` line by line, but for its members, which become one MLP with zeros between them; a test holds the two
together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, checker, helper, numpy_helper

from engines.train.network import CLIP, MAX_LOG_AMOUNT, Network

OPSET = 17
IR_VERSION = 8  # the one that goes with opset 17; TensorRT 8.6's parser knows no later one

_Weights = dict[str, NDArray[Any]]


class _Graph:
    """Nodes and weights, collected in order."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def weight(self, name: str, value: NDArray[Any]) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def node(self, op: str, *inputs: str, out: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=out, **attributes))
        return out


def onnx_bytes(network: Network) -> bytes:
    """Serialise a network: inputs features (B, F), history (B, L, C); outputs p_tip (B, 2), value (B); all FP32."""
    weights = {name: tensor.detach().cpu().numpy() for name, tensor in network.state_dict().items()}
    shape = network.shape
    graph = _Graph()
    _pool_history(graph, weights)
    below = _look_at_features(graph, weights, shape.pieces)
    trees = _climb(graph, weights)
    _score(graph, weights, below, trees)
    proto = helper.make_graph(
        graph.nodes,
        "tipstream",
        [_port("features", shape.features), _port("history", *shape.history)],
        [_port("p_tip", 2), _port("value")],
        graph.weights,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _port(name: str, *shape: int) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])


def _pool_history(graph: _Graph, weights: _Weights) -> None:
    """Write history (B, L, C) -> pooled (B, heads * D)."""
    graph.weight("type_channel", np.array(0, np.int64))
    graph.weight("type_low", np.array(0, np.float32))
    graph.weight("type_high", np.array(len(weights["kind.weight"]) - 1, np.float32))
    graph.weight("type_tokens", weights["kind.weight"])
    graph.weight("channel_weight", (weights["token.weight"] * weights["channel_scale"]).T)
    graph.weight("position", weights["position"])
    graph.weight("mix_weight", weights["mix.weight"].T)
    graph.weight("mix_bias", weights["mix.bias"])
    graph.weight("attention_weight", weights["attention.weight"].T)
    graph.node("Gather", "history", "type_channel", out="types", axis=2)
    graph.node("Clip", "types", "type_low", "type_high", out="types_in_range")
    graph.node("Cast", "types_in_range", out="type_codes", to=TensorProto.INT32)
    graph.node("Gather", "type_tokens", "type_codes", out="by_type", axis=0)
    graph.node("MatMul", "history", "channel_weight", out="by_channel")
    graph.node("Add", "by_channel", "position", out="placed")
    graph.node("Add", "placed", "by_type", out="token_sum")
    graph.node("Relu", "token_sum", out="token")
    graph.node("MatMul", "token", "mix_weight", out="mixed")
    graph.node("Add", "mixed", "mix_bias", out="mixed_sum")
    graph.node("Relu", "mixed_sum", out="tokens")
    graph.node("MatMul", "tokens", "attention_weight", out="attention_logits")
    graph.node("Softmax", "attention_logits", out="attention", axis=1)
    graph.node("Transpose", "attention", out="attention_by_head", perm=[0, 2, 1])
    graph.node("MatMul", "attention_by_head", "tokens", out="views")
    graph.node("Flatten", "views", out="pooled", axis=1)


def _look_at_features(graph: _Graph, weights: _Weights, pieces: int) -> list[str]:
    """Write features (B, F) -> standard (B, F), piece (B, N); returns the names of what there is."""
    for name in ("mean", "inverse_std"):
        graph.weight(name, weights[name])
    graph.weight("clip_low", np.array(-CLIP, np.float32))
    graph.weight("clip_high", np.array(CLIP, np.float32))
    graph.node("Sub", "features", "mean", out="centred")
    graph.node("Mul", "centred", "inverse_std", out="standardised")
    graph.node("Clip", "standardised", "clip_low", "clip_high", out="standard")
    if not pieces:
        return ["standard"]
    for name in ("piece_feature", "piece_low", "piece_inverse_width"):
        graph.weight(name, weights[name])
    graph.weight("piece_start", np.array(0, np.float32))
    graph.weight("piece_end", np.array(1, np.float32))
    _pick(graph, "piece_feature", out="picked")
    graph.node("Sub", "picked", "piece_low", out="past_start")
    graph.node("Mul", "past_start", "piece_inverse_width", out="along")
    graph.node("Clip", "along", "piece_start", "piece_end", out="piece")
    return ["standard", "piece"]


def _pick(graph: _Graph, columns: str, out: str) -> None:
    """Write features (B, F) -> those of some columns (B, N).

    As rows of the transposed: ONNX Runtime gathers columns number by number, which took a fifth of an inference.
    """
    if not any(node.name == "by_feature" for node in graph.nodes):
        graph.node("Transpose", "features", out="by_feature", perm=[1, 0])
    graph.node("Gather", "by_feature", columns, out=f"{out}_by_feature", axis=0)
    graph.node("Transpose", f"{out}_by_feature", out=out, perm=[1, 0])


def _climb(graph: _Graph, weights: _Weights) -> str | None:
    """Write features (B, F) -> the trees' logit (B, 1), at least the floor."""
    depth, trees = weights["tree_feature"].shape
    if not trees:
        return None
    bits = np.broadcast_to(2.0 ** np.arange(depth, dtype=np.float32)[:, None], (depth, trees))
    graph.weight("tree_feature", weights["tree_feature"].reshape(-1))
    graph.weight("tree_border", weights["tree_border"].reshape(-1))
    graph.weight("tree_bit", bits.reshape(-1))
    graph.weight("tree_shape", np.array([0, depth, trees], np.int64))  # 0: as it is
    graph.weight("tree_leaf", weights["tree_leaf"].T)
    graph.weight("tree_floor", weights["floor"])
    graph.weight("tree_axis", np.array([1], np.int64))
    _pick(graph, "tree_feature", out="tree_picked")
    graph.node("Greater", "tree_picked", "tree_border", out="tree_yes")
    graph.node("Cast", "tree_yes", out="tree_answer", to=TensorProto.FLOAT)
    graph.node("Mul", "tree_answer", "tree_bit", out="tree_bits")
    graph.node("Reshape", "tree_bits", "tree_shape", out="tree_questions")
    graph.node("ReduceSum", "tree_questions", "tree_axis", out="tree_number", keepdims=0)
    graph.node("Cast", "tree_number", out="tree_index", to=TensorProto.INT32)
    graph.node("GatherElements", "tree_leaf", "tree_index", out="tree_leaves", axis=0)
    graph.node("ReduceSum", "tree_leaves", "tree_axis", out="tree_sum", keepdims=1)
    return graph.node("Clip", "tree_sum", "tree_floor", out="tree_logit")


def _score(graph: _Graph, weights: _Weights, below: list[str], trees: str | None) -> None:
    """Write what is below, pooled (B, heads * D), and the trees' logit (B, 1) -> p_tip (B, 2), value (B)."""
    graph.node("Concat", *below, "pooled", out="body_in", axis=1)
    layers = {
        "body_0": (weights["body.weight"], weights["body.bias"]),
        "body_1": (_side_by_side(weights["middle.weight"]), weights["middle.bias"].reshape(-1)),
    }
    last = "body_in"
    for name, (weight, bias) in layers.items():
        graph.weight(f"{name}_weight", weight)
        graph.weight(f"{name}_bias", bias)
        graph.node("Gemm", last, f"{name}_weight", f"{name}_bias", out=f"{name}_sum", transB=1)
        last = graph.node("Relu", f"{name}_sum", out=f"{name}_out")
    members = len(weights["head.weight"])
    graph.weight("head_weight", np.concatenate(weights["head.weight"]).T / np.float32(members))
    graph.weight("head_bias", weights["head.bias"].mean((0, 1)))
    graph.weight("calibration_scale", weights["scale"])
    graph.weight("calibration_shift", weights["shift"])
    graph.node("Gemm", last, "head_weight", "head_bias", out="head_raw", transB=1)
    graph.node("Mul", "head_raw", "calibration_scale", out="head_scaled")
    graph.node("Add", "head_scaled", "calibration_shift", out="head")
    for column, name in enumerate(("tip", "soon", "log_amount")):
        graph.weight(f"{name}_column", np.array([column], np.int64))
        graph.node("Gather", "head", f"{name}_column", out=f"{name}_logit", axis=1)
    longest = "tip_logit"
    if trees:
        graph.weight("tree_share", weights["share"] * weights["scale"][0])
        graph.node("Gather", "head_raw", "tip_column", out="tip_raw", axis=1)
        graph.node("Clip", "tip_raw", "tree_floor", out="tip_above_floor")
        graph.node("Sub", trees, "tip_above_floor", out="tree_difference")
        graph.node("Mul", "tree_difference", "tree_share", out="tree_say")
        longest = graph.node("Add", "tip_logit", "tree_say", out="tip_logit_with_trees")
    graph.weight("log_amount_low", np.array(0, np.float32))
    graph.weight("log_amount_high", np.array(MAX_LOG_AMOUNT, np.float32))
    graph.node("Sigmoid", longest, out="p_longest")
    graph.node("Sigmoid", "soon_logit", out="p_soon")
    graph.node("Mul", "p_longest", "p_soon", out="p_shorter")
    graph.node("Concat", "p_shorter", "p_longest", out="p_tip", axis=1)
    graph.node("Clip", "log_amount_logit", "log_amount_low", "log_amount_high", out="log_amount")
    graph.node("Exp", "log_amount", out="amount")
    graph.node("Mul", "p_longest", "amount", out="value_column")
    graph.weight("value_axis", np.array([1], np.int64))
    graph.node("Squeeze", "value_column", "value_axis", out="value")


def _side_by_side(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """One matrix of the members' own: (K, i, o) -> (K * o, K * i), zeros between them."""
    members, inputs, outputs = weight.shape
    whole = np.zeros((members, outputs, members, inputs), np.float32)
    for member in range(members):
        whole[member, :, member] = weight[member].T
    return whole.reshape(members * outputs, members * inputs)
