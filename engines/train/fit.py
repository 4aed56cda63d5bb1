"""Training of the network: rows of one period, stopped by the next."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from engines.train.dataset import Facts, Rows
from engines.train.network import Network
from engines.train.recipe import Recipe

Report = Callable[[int, float, float], None]
"""Called after each epoch with its number, training loss and validation loss."""

_FLAT = 1e-6  # a feature that moves less than this in training is a constant
_AMOUNT_WEIGHT = 0.05  # the amount is learned beside the probabilities, not at their cost
_CHUNK = 8192


class _Batch(NamedTuple):
    features: Tensor
    history: Tensor
    tips: Tensor
    amount: Tensor
    weight: Tensor


def fit(facts: Facts, train: Rows, validation: Rows, recipe: Recipe, report: Report) -> Network:
    """Train a network and keep it as it was after its best epoch; it is not calibrated yet."""
    torch.manual_seed(recipe.seed)
    network = Network(len(facts.columns), facts.history, facts.type_codes, tokens=recipe.tokens, hidden=recipe.hidden)
    _standardise(network, train)
    _start_at_means(network, train)
    steps = math.ceil(len(train.weight) / recipe.batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps * recipe.epochs)
    rng = np.random.default_rng(recipe.seed)
    best, best_state, waited = math.inf, copy.deepcopy(network.state_dict()), 0
    for epoch in range(1, recipe.epochs + 1):
        network.train()
        training_loss = 0.0
        for batch in _batches(train, recipe.batch, rng.permutation(len(train.weight))):
            optimizer.zero_grad()
            loss = _loss(network, batch) / batch.weight.sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            training_loss += loss.item() / steps
        network.eval()
        validation_loss = _mean_loss(network, validation)
        report(epoch, training_loss, validation_loss)
        waited += 1
        if validation_loss < best:
            best, best_state, waited = validation_loss, copy.deepcopy(network.state_dict()), 0
        if waited > recipe.patience:
            break
    network.load_state_dict(best_state)
    return network


def predict(network: Network, rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Score rows with the network itself: p_tip (n, 2) and value (n,)."""
    with torch.no_grad():
        parts = [network(batch.features, batch.history) for batch in _batches(rows, _CHUNK)]
    p_tip, value = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return p_tip, value


def _standardise(network: Network, train: Rows) -> None:
    network.get_buffer("mean").copy_(torch.from_numpy(train.features.mean(0, dtype=np.float64)))
    network.get_buffer("inverse_std").copy_(_inverse(train.features.std(0, dtype=np.float64)))
    # Only the spread of the history's channels: its empty places are to stay zeros.
    network.get_buffer("channel_scale").copy_(_inverse(train.history.std((0, 1), dtype=np.float64)))


def _start_at_means(network: Network, train: Rows) -> None:
    """Begin with what is right on average, so that the first steps are not spent on it."""
    within = (train.tips * train.weight[:, None]).sum(0, dtype=np.float64)
    rate, soon = within[1] / train.weight.sum(dtype=np.float64), within[0] / within[1]
    amount = float((train.amount_minor * train.weight * train.tips[:, 1]).sum() / within[1])
    with torch.no_grad():
        network.head.bias.copy_(
            torch.tensor([math.log(rate / (1 - rate)), math.log(soon / (1 - soon)), math.log(amount)])
        )


def _inverse(spread: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.divide(1, spread, out=np.zeros_like(spread), where=spread > _FLAT))


def _loss(network: Network, batch: _Batch) -> Tensor:
    """Sum over the batch of each row's weighted negative log-likelihood.

    One term says whether a tip follows at all; where one does, a second says whether it follows soon, and a third
    (gamma deviance, so that the mean of a heavy-tailed amount is learned without bias) how much it is.
    """
    out = network.outputs(batch.features, batch.history)
    whether = functional.binary_cross_entropy_with_logits(out.tip, batch.tips[:, 1], reduction="none")
    soon = functional.binary_cross_entropy_with_logits(out.soon, batch.tips[:, 0], reduction="none")
    amount = batch.amount * torch.exp(-out.log_amount) + out.log_amount
    return ((whether + batch.tips[:, 1] * (soon + _AMOUNT_WEIGHT * amount)) * batch.weight).sum()


def _mean_loss(network: Network, rows: Rows) -> float:
    with torch.no_grad():
        return float(sum(_loss(network, batch).item() for batch in _batches(rows, _CHUNK)) / rows.weight.sum())


def _batches(rows: Rows, size: int, order: NDArray[Any] | None = None) -> Iterator[_Batch]:
    for start in range(0, len(rows.weight), size):
        part = rows.where(slice(start, start + size) if order is None else order[start : start + size])
        yield _Batch(
            torch.from_numpy(part.features),
            torch.from_numpy(part.history),
            torch.from_numpy(part.tips.astype(np.float32)),
            torch.from_numpy(part.amount_minor.astype(np.float32)),
            torch.from_numpy(part.weight),
        )
