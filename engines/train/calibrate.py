"""What is fitted after the network: its calibration, and the prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from engines.manifest import Prior
from engines.train.dataset import Facts, Rows
from engines.train.fit import logits
from engines.train.network import Network


class Slopes(NamedTuple):
    """By how much the logits have to be stretched for rows that the network has not seen; below 1 if it is too sure."""

    tip: float
    soon: float


def slopes(network: Network, unseen: Rows) -> Slopes:
    """Fit the slopes of a network that is not calibrated yet to rows that it was not trained on."""
    out = logits(network, unseen)
    tips, weight = torch.from_numpy(unseen.tips).double(), torch.from_numpy(unseen.weight).double()
    whether = _platt(out.tip, tips[:, 1], weight)
    return Slopes(float(whether[0]), float(_platt(out.soon, tips[:, 0], weight * tips[:, 1])[0]))


def calibrate(network: Network, slope: Slopes, rows: Rows) -> None:
    """Set the affine of a network that has none, so that probabilities and amounts are right on average over the rows.

    The rows had better be all there are: how many tip in one period is up to a few people, and no forecast of the next.
    Of the log amount, the offset is the one that makes the values of all rows add up to what was tipped.
    """
    out = logits(network, rows)
    tips, weight = torch.from_numpy(rows.tips).double(), torch.from_numpy(rows.weight).double()
    amount = torch.from_numpy(rows.amount_minor).double()
    tip = _platt(out.tip, tips[:, 1], weight, slope.tip)
    soon = _platt(out.soon, tips[:, 0], weight * tips[:, 1], slope.soon)
    p = torch.sigmoid(out.tip.double() * tip[0] + tip[1])
    too_low = float((weight * amount).sum() / (weight * p * out.log_amount.double().exp()).sum())
    network.get_buffer("scale").copy_(torch.tensor([tip[0], soon[0], 1.0]))
    network.get_buffer("shift").copy_(torch.tensor([tip[1], soon[1], math.log(too_low)]))


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


def _platt(logit: Tensor, tips: Tensor, weight: Tensor, slope: float | None = None) -> NDArray[np.float64]:
    """Slope and offset that fit the logits to the tips; the slope is kept positive, or as given."""

    def misfit(unknown: Tensor) -> Tensor:
        if slope is not None:
            return _cross_entropy(logit * slope + unknown[0], tips, weight)
        return _cross_entropy(logit * unknown[1].exp() + unknown[0], tips, weight) + 1e-4 * unknown[1] ** 2

    fitted = _minimise(misfit, torch.zeros(1 if slope is not None else 2, dtype=torch.float64))
    return np.array([float(fitted[1].exp()) if slope is None else slope, float(fitted[0])])


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
