"""Training of the network: rows of one period, stopped by the next."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from engines import metrics
from engines.train.dataset import Facts, Rows
from engines.train.inputs import measure
from engines.train.network import Network, Outputs, Shape
from engines.train.recipe import HISTORY, Recipe


class Epoch(NamedTuple):
    """How training stood after one pass over the rows; losses are means over all the events that the rows stand for."""

    epoch: int
    training_loss: float
    """Mean of the members, with dropout."""
    validation_loss: float
    """Of the members together."""
    pr_auc: float
    """On the validation period, for the longest horizon."""
    auc: float
    seconds: float
    """Since training began."""


Report = Callable[[Epoch], None]
"""Called after each epoch."""

_AMOUNT_WEIGHT: Final = 0.05  # the amount is learned beside the probabilities, not at their cost
_CHUNK: Final = 8192


class _Batch(NamedTuple):
    features: Tensor
    history: Tensor
    tips: Tensor
    amount: Tensor
    weight: Tensor


def fit(
    facts: Facts,
    train: Rows,
    validation: Rows | None,
    recipe: Recipe,
    report: Report = lambda _: None,
    *,
    until: int | None = None,
) -> Network:
    """Train a network, on a GPU if there is one; it is not calibrated yet.

    With rows to validate by, it is kept as after its best epoch; without, as after epoch `until`.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = _begin(facts, train, recipe, rng)
    network.to(device)
    steps = math.ceil(len(train.weight) / recipe.batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    # Planned for all epochs even if it ends before: the rate then falls as it did when that end was found to be best.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps * recipe.epochs)
    began = time.monotonic()
    best, best_state, waited = math.inf, copy.deepcopy(network.state_dict()), 0
    for number in range(1, (until or recipe.epochs) + 1):
        network.train()
        loss = torch.zeros((), device=device)
        for batch in _batches(train, recipe.batch, device, rng.permutation(len(train.weight))):
            loss += _step(network, batch, optimizer) / steps
            schedule.step()
        network.eval()
        if validation is None:
            continue
        epoch = _judge(network, number, loss.item(), validation, time.monotonic() - began)
        report(epoch)
        waited += 1
        if epoch.validation_loss < best:
            best, best_state, waited = epoch.validation_loss, copy.deepcopy(network.state_dict()), 0
        if waited > recipe.patience:
            break
    if validation is not None:
        network.load_state_dict(best_state)
    network.cpu()
    return network


def predict(network: Network, rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Score rows with the network itself: p_tip (n, 2) and value (n,)."""
    device = network.mean.device
    with torch.no_grad():
        parts = [network(batch.features, batch.history) for batch in _batches(rows, _CHUNK, device)]
    p_tip, value = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    return p_tip, value


def logits(network: Network, rows: Rows) -> Outputs:
    """Return the network's outputs for rows, each (n,), on the CPU."""
    device = network.mean.device
    with torch.no_grad():
        parts = [network.outputs(batch.features, batch.history) for batch in _batches(rows, _CHUNK, device)]
    return Outputs(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def _begin(facts: Facts, train: Rows, recipe: Recipe, rng: np.random.Generator) -> Network:
    """Make a network that knows its inputs' ranges, and begins with what is right on average."""
    hidden = (*recipe.without, *recipe.network_without)
    inputs = measure(facts, train, pieces=recipe.pieces, without=hidden, rng=rng)
    shape = Shape(
        features=len(facts.columns),
        history=facts.history,
        type_codes=facts.type_codes,
        pieces=len(inputs.pieces.feature),
        tokens=recipe.tokens,
        heads=recipe.heads,
        members=recipe.members,
        hidden=recipe.hidden,
    )
    network = Network(shape, dropout=recipe.dropout, input_dropout=recipe.input_dropout)
    constants = inputs._asdict() | {f"piece_{name}": value for name, value in inputs.pieces._asdict().items()}
    del constants["pieces"]
    for name, value in constants.items():
        network.get_buffer(name).copy_(torch.from_numpy(value))
    within = (train.tips * train.weight[:, None]).sum(0, dtype=np.float64)
    rate, soon = within[1] / train.weight.sum(dtype=np.float64), within[0] / within[1]
    amount = float((train.amount_minor * train.weight * train.tips[:, 1]).sum() / within[1])
    with torch.no_grad():
        network.head.bias.copy_(
            torch.tensor([math.log(rate / (1 - rate)), math.log(soon / (1 - soon)), math.log(amount)])
        )
    if HISTORY in hidden:
        # Whatever the history holds, its tokens are then the same.
        network.channel_scale.zero_()
        network.kind.weight.requires_grad_(False).zero_()
    return network


def _step(network: Network, batch: _Batch, optimizer: torch.optim.Optimizer) -> Tensor:
    """Train on one batch; returns its loss, the mean of the members."""
    optimizer.zero_grad()
    each = _losses(network.members(batch.features, batch.history), batch).sum(1) / batch.weight.sum()
    each.sum().backward()  # apart: no member learns to lean on another
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return each.detach().mean()


def _judge(network: Network, number: int, training_loss: float, validation: Rows, seconds: float) -> Epoch:
    out = logits(network, validation)
    weight = validation.weight
    everything = next(_batches(validation, len(weight), out.tip.device))
    y, p = validation.tips[:, -1], torch.sigmoid(out.tip.double()).numpy()
    return Epoch(
        number,
        training_loss,
        float(_losses(out, everything).double().sum()) / float(weight.sum(dtype=np.float64)),
        metrics.pr_auc(y, p, weight),
        metrics.roc_auc(y, p, weight),
        seconds,
    )


def _losses(out: Outputs, batch: _Batch) -> Tensor:
    """Each row's weighted negative log-likelihood: outputs (..., n) -> (..., n).

    One term says whether a tip follows at all; where one does, a second says whether it follows soon, and a third
    (gamma deviance, so that the mean of a heavy-tailed amount is learned without bias) how much it is.
    """
    longest, shorter = (batch.tips[:, column].expand_as(out.tip) for column in (1, 0))
    whether = functional.binary_cross_entropy_with_logits(out.tip, longest, reduction="none")
    soon = functional.binary_cross_entropy_with_logits(out.soon, shorter, reduction="none")
    amount = batch.amount * torch.exp(-out.log_amount) + out.log_amount
    return (whether + longest * (soon + _AMOUNT_WEIGHT * amount)) * batch.weight


def _batches(rows: Rows, size: int, device: torch.device, order: NDArray[Any] | None = None) -> Iterator[_Batch]:
    for start in range(0, len(rows.weight), size):
        part = rows.where(slice(start, start + size) if order is None else order[start : start + size])
        columns = (
            part.features, part.history, part.tips.astype(np.float32), part.amount_minor.astype(np.float32), part.weight
        )  # fmt: skip
        yield _Batch(*(torch.from_numpy(column).to(device) for column in columns))
