"""The reference architecture: an MLP over the features and one attention-pooled view of the history.

    features --standardise, clip-------------------------------+
    history --type+linear+position, ReLU--> tokens --pooling---+--> MLP --> 3 outputs --affine--> p_tip, value

Probabilities are factored so that they can never fall along the horizons and each factor has its own likelihood:
p(600 s) = sigmoid(tip) and p(60 s) = p(600 s) * sigmoid(soon). The value is p(600 s) * exp(log amount).
The affine on the three outputs is the calibration; it is part of the graph.
An empty place of the history is a row of zeros, its type the code 0: a token like any other, which the pooling learns
to pass over. So there is no mask, and a viewer without history is nothing special.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

CLIP = 5.0
"""Standard deviations that a feature may lie from its mean."""
MAX_LOG_AMOUNT = 16.0
"""exp(16) is 8.9 million minor units: a mistaken output stays a number."""


class Outputs(NamedTuple):
    """Logits of a batch: each (n,) float32."""

    tip: Tensor
    """Logit of a tip within the longest horizon."""
    soon: Tensor
    """Logit of it falling within the shorter one, given that there is one."""
    log_amount: Tensor
    """Log of the amount in minor units, given that there is one."""


class Network(nn.Module):
    """Two horizons, one amount."""

    mean: Tensor
    inverse_std: Tensor
    channel_scale: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(
        self, n_features: int, history: tuple[int, int], type_codes: int, *, tokens: int, hidden: tuple[int, int]
    ) -> None:
        """Make it untrained; channel 0 of the history holds type codes below `type_codes`."""
        super().__init__()
        length, channels = history
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("inverse_std", torch.ones(n_features))
        self.register_buffer("channel_scale", torch.ones(channels))
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("shift", torch.zeros(3))
        self.kind = nn.Embedding(type_codes, tokens)
        self.token = nn.Linear(channels, tokens, bias=False)
        self.position = nn.Parameter(torch.randn(length, tokens) * 0.02)
        self.attention = nn.Linear(tokens, 1, bias=False)
        self.body = nn.Sequential(
            nn.Linear(n_features + tokens, hidden[0]), nn.ReLU(), nn.Linear(hidden[0], hidden[1]), nn.ReLU()
        )
        self.head = nn.Linear(hidden[1], 3)
        self.dropout = nn.Dropout(0.1)

    def outputs(self, features: Tensor, history: Tensor) -> Outputs:
        """Calibrated logits: features (n, F), history (n, L, C)."""
        standard = torch.clamp((features - self.mean) * self.inverse_std, -CLIP, CLIP)
        codes = torch.clamp(history[:, :, 0], 0, self.kind.num_embeddings - 1).int()
        tokens = torch.relu(self.token(history * self.channel_scale) + self.position + self.kind(codes))
        pooled = (torch.softmax(self.attention(tokens), dim=1) * tokens).sum(dim=1)
        body = self.dropout(self.body(torch.cat([standard, pooled], dim=1)))
        out = self.head(body) * self.scale + self.shift
        return Outputs(out[:, 0], out[:, 1], torch.clamp(out[:, 2], 0.0, MAX_LOG_AMOUNT))

    def forward(self, features: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """Return p_tip (n, 2) and value (n,), as the exported graph does."""
        out = self.outputs(features, history)
        longest = torch.sigmoid(out.tip)
        p_tip = torch.stack([longest * torch.sigmoid(out.soon), longest], dim=1)
        return p_tip, longest * torch.exp(out.log_amount)
