"""The architecture: small MLPs side by side over features cut into pieces and attention-pooled views of the history.

    features --standardise, clip------------------------------------+
    features --pieces: how far along each stretch of its range------+--> members: MLPs --> mean of 3 outputs
    history --type+linear+position, ReLU, linear, ReLU--> tokens    |                          |
            --one softmax over time a head: weighted means of tokens+                          |
    features --trees: a leaf of each, summed--> a say in the logit of a likely tip-------------+--affine--> p_tip, value

A piece says how far a feature is along one stretch of its range, 0 to 1: with them a linear layer can bend where the
data does, which is what trees do well and plain MLPs badly. The members see the same inputs, begin differently, are
trained each for itself, and answer together by their mean logit; in the exported graph they are one MLP whose weights
between members are zeros. Trees (engines/train/trees.py) are grown apart on the same rows and have a fixed share of
what the logit is above a floor: they err elsewhere, so that the highest scores are right more often, and are too
coarse to tell the unlikely from the very unlikely.

Probabilities are factored so that they can never fall along the horizons and each factor has its own likelihood:
p(600 s) = sigmoid(tip) and p(60 s) = p(600 s) * sigmoid(soon). The value is p(600 s) * exp(log amount).
The affine on the three outputs is the calibration; it is part of the graph.
An empty place of the history is a row of zeros, its type the code 0: a token like any other, which the pooling learns
to pass over. So there is no mask, and a viewer without history is nothing special.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

CLIP = 5.0
"""Standard deviations that a feature may lie from its mean."""
MAX_LOG_AMOUNT = 16.0
"""exp(16) is 8.9 million minor units: a mistaken output stays a number."""
_OUTPUTS = 3


class Outputs(NamedTuple):
    """Logits of a batch, each of one shape, float32."""

    tip: Tensor
    """Logit of a tip within the longest horizon."""
    soon: Tensor
    """Logit of it falling within the shorter one, given that there is one."""
    log_amount: Tensor
    """Log of the amount in minor units, given that there is one."""


class Pieces(NamedTuple):
    """N stretches of features' ranges."""

    feature: NDArray[np.int32]
    """(N,) column of the feature."""
    low: NDArray[np.float32]
    """(N,) where the stretch begins."""
    inverse_width: NDArray[np.float32]
    """(N,)"""


class Trees(NamedTuple):
    """T trees of depth D: what they say of a row is the sum of one leaf of each."""

    feature: NDArray[np.int32]
    """(D, T) column that question d of a tree is about."""
    border: NDArray[np.float32]
    """(D, T) bit d of the leaf's number is 1 where the feature is above this."""
    leaf: NDArray[np.float32]
    """(T, 2**D) in units of a logit; what is the same for all rows is in the first tree's."""


class Shape(NamedTuple):
    """Sizes of a network."""

    features: int
    history: tuple[int, int]
    """(L, C)"""
    type_codes: int
    """Codes that channel 0 of the history takes: 0 to this, exclusive."""
    pieces: int
    tokens: int
    heads: int
    members: int
    hidden: tuple[int, int]
    """Widths of each member's two hidden layers."""


class Network(nn.Module):
    """Two horizons, one amount."""

    mean: Tensor
    inverse_std: Tensor
    channel_scale: Tensor
    piece_feature: Tensor
    piece_low: Tensor
    piece_inverse_width: Tensor
    tree_feature: Tensor
    tree_border: Tensor
    tree_leaf: Tensor
    share: Tensor
    floor: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, shape: Shape, *, dropout: float = 0.0, input_dropout: float = 0.0) -> None:
        """Make it untrained."""
        super().__init__()
        self.shape = shape
        length, channels = shape.history
        for name, width in (("mean", shape.features), ("shift", _OUTPUTS), ("piece_low", shape.pieces)):
            self.register_buffer(name, torch.zeros(width))
        for name, width in (
            ("inverse_std", shape.features),
            ("scale", _OUTPUTS),
            ("piece_inverse_width", shape.pieces),
        ):
            self.register_buffer(name, torch.ones(width))
        self.register_buffer("channel_scale", torch.ones(channels))
        self.register_buffer("piece_feature", torch.zeros(shape.pieces, dtype=torch.int32))
        self.register_buffer("tree_feature", torch.zeros(0, 0, dtype=torch.int32))
        self.register_buffer("tree_border", torch.zeros(0, 0))
        self.register_buffer("tree_leaf", torch.zeros(0, 1))
        self.register_buffer("share", torch.zeros(()))
        self.register_buffer("floor", torch.zeros(()))
        self.kind = nn.Embedding(shape.type_codes, shape.tokens)
        self.token = nn.Linear(channels, shape.tokens, bias=False)
        self.position = nn.Parameter(torch.randn(length, shape.tokens) * 0.02)
        self.mix = nn.Linear(shape.tokens, shape.tokens)
        self.attention = nn.Linear(shape.tokens, shape.heads, bias=False)
        first, second = shape.hidden
        self.body = nn.Linear(shape.features + shape.pieces + shape.heads * shape.tokens, shape.members * first)
        self.middle = Members(shape.members, first, second)
        self.head = Members(shape.members, second, _OUTPUTS)
        self.dropout = nn.Dropout(dropout)
        self.input_dropout = nn.Dropout(input_dropout)

    def plant(self, trees: Trees, share: float, floor: float) -> None:
        """Let trees, grown on the same rows, have a share of what the logit of a tip is above a floor."""
        for name, array in trees._asdict().items():
            setattr(self, f"tree_{name}", torch.from_numpy(array).to(self.mean.device))
        self.share.fill_(share)
        self.floor.fill_(floor)

    def members(self, features: Tensor, history: Tensor) -> Outputs:
        """What each member says, not calibrated: features (n, F), history (n, L, C) -> each (members, n)."""
        standard = torch.clamp((features - self.mean) * self.inverse_std, -CLIP, CLIP)
        picked = features.index_select(1, self.piece_feature)
        pieces = torch.clamp((picked - self.piece_low) * self.piece_inverse_width, 0.0, 1.0)
        below = self.input_dropout(torch.cat([standard, pieces, self._pooled(history)], dim=1))
        first = self.dropout(torch.relu(self.body(below)))
        apart = first.view(len(first), self.shape.members, -1).transpose(0, 1)
        out = self.head(self.dropout(torch.relu(self.middle(apart))))
        return Outputs(*out.unbind(2))

    def outputs(self, features: Tensor, history: Tensor) -> Outputs:
        """Calibrated logits, each (n,)."""
        tip, soon, log_amount = torch.stack(self.members(features, history)).mean(1)
        difference = torch.maximum(self._leaves(features), self.floor) - torch.maximum(tip, self.floor)
        mean = torch.stack([tip + self.share * difference, soon, log_amount])
        tip, soon, log_amount = mean * self.scale[:, None] + self.shift[:, None]
        return Outputs(tip, soon, torch.clamp(log_amount, 0.0, MAX_LOG_AMOUNT))

    def forward(self, features: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """Return p_tip (n, 2) and value (n,), as the exported graph does."""
        out = self.outputs(features, history)
        longest = torch.sigmoid(out.tip)
        p_tip = torch.stack([longest * torch.sigmoid(out.soon), longest], dim=1)
        return p_tip, longest * torch.exp(out.log_amount)

    def _leaves(self, features: Tensor) -> Tensor:
        """Sum of a leaf of each tree: (n, F) -> (n,)."""
        depth, trees = self.tree_feature.shape
        yes = features[:, self.tree_feature.flatten()].view(len(features), depth, trees) > self.tree_border
        number = (yes * 2 ** torch.arange(depth, device=yes.device)[:, None]).sum(1)
        return self.tree_leaf[torch.arange(trees, device=yes.device), number].sum(1)

    def _pooled(self, history: Tensor) -> Tensor:
        """Views of the history: (n, L, C) -> (n, heads * tokens)."""
        codes = torch.clamp(history[:, :, 0], 0, self.kind.num_embeddings - 1).int()
        tokens = torch.relu(self.token(history * self.channel_scale) + self.position + self.kind(codes))
        tokens = torch.relu(self.mix(tokens))
        attention = torch.softmax(self.attention(tokens), dim=1)
        return (attention.transpose(1, 2) @ tokens).flatten(1)


class Members(nn.Module):
    """One linear layer for each member: (members, n, i) -> (members, n, o)."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        """Begin as `nn.Linear` does."""
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound))

    def forward(self, below: Tensor) -> Tensor:
        """Apply them."""
        return torch.baddbmm(self.bias, below, self.weight)
