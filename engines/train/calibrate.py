"""What is fitted after the network: its calibration, and the prior."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from engines.manifest import Prior
from engines.train.dataset import Facts, Rows
from engines.train.network import Network


def calibrate(network: Network, rows: Rows) -> None:
    """Set the network's affine so that its probabilities and amounts are right on average over these rows.

    Slope and offset of each probability's logit (Platt); of the log amount the offset that makes the values of all rows
    add up to what was tipped.
    """
    with torch.no_grad():
        out = network.outputs(torch.from_numpy(rows.features), torch.from_numpy(rows.history))
    tips, weight = torch.from_numpy(rows.tips).double(), torch.from_numpy(rows.weight).double()
    amount = torch.from_numpy(rows.amount_minor).double()
    tipped = weight * tips[:, 1]
    whether = _platt(out.tip, tips[:, 1], weight)
    soon = _platt(out.soon, tips[:, 0], tipped)
    p = torch.sigmoid(out.tip.double() * whether[0] + whether[1])
    too_low = float((weight * amount).sum() / (weight * p * out.log_amount.double().exp()).sum())
    network.get_buffer("scale").copy_(torch.tensor([whether[0], soon[0], 1.0]))
    network.get_buffer("shift").copy_(torch.tensor([whether[1], soon[1], math.log(too_low)]))


def fit_prior(facts: Facts, rows: Rows) -> Prior:
    """Fit the formula of `engines/prior.py` by logistic regression on the columns of tip history."""
    indices = [facts.columns.index(name) for name in facts.prior_columns]
    columns = torch.from_numpy(rows.features[:, indices]).double()
    spread = columns.std(0).clamp_min(1e-3)
    tips, weight = torch.from_numpy(rows.tips[:, -1]).double(), torch.from_numpy(rows.weight).double()

    def misfit(unknown: Tensor) -> Tensor:
        logit = (columns / spread) @ unknown[1:] + unknown[0]
        return _cross_entropy(logit, tips, weight) + 1e-6 * (unknown[1:] ** 2).sum()

    fitted = _minimise(misfit, torch.zeros(1 + len(indices), dtype=torch.float64))
    within = (rows.tips * rows.weight[:, None]).sum(0, dtype=np.float64)
    return Prior(
        bias=float(fitted[0]),
        weights=dict(zip(facts.prior_columns, (fitted[1:] / spread).tolist(), strict=True)),
        shares=tuple((within / within[-1]).tolist()),
        amount_minor=_mean_amount(rows),
    )


def _mean_amount(rows: Rows) -> float:
    weight = rows.weight * rows.tips[:, -1]
    return float((rows.amount_minor * weight).sum() / weight.sum())


def _platt(logit: Tensor, tips: Tensor, weight: Tensor) -> NDArray[np.float64]:
    """Slope and offset that fit the logits to the tips; the slope is kept positive."""

    def misfit(unknown: Tensor) -> Tensor:
        return _cross_entropy(logit * unknown[0].exp() + unknown[1], tips, weight) + 1e-4 * unknown[0] ** 2

    log_slope, offset = _minimise(misfit, torch.zeros(2, dtype=torch.float64))
    return np.array([np.exp(float(log_slope)), float(offset)])


def _cross_entropy(logit: Tensor, tips: Tensor, weight: Tensor) -> Tensor:
    losses = functional.binary_cross_entropy_with_logits(logit, tips, weight, reduction="sum")
    return losses / weight.sum()


def _minimise(misfit: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    unknown = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([unknown], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = misfit(unknown)
        loss.backward()
        return loss

    optimizer.step(closure)
    return unknown.detach()
