"""One training run: a set of rows in, a model folder out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from engines.manifest import MANIFEST_FILE, ONNX_FILE, Artifact, Manifest, Tier
from engines.model import ModelError
from engines.train.calibrate import calibrate, fit_prior
from engines.train.card import CARD_FILE, card
from engines.train.dataset import Facts, Rows, concatenate, read
from engines.train.export import onnx_bytes
from engines.train.fit import fit, predict
from engines.train.judge import judge
from engines.train.recipe import Recipe


class Label(NamedTuple):
    """What a person calls the model."""

    name: str
    version: str
    created: str
    """ISO 8601, UTC."""


def train(shards: Path, out: Path, label: Label, recipe: Recipe, say: Callable[[str], None]) -> Manifest:
    """Train on the set in `shards` and write model, manifest and card to `out`; raises ModelError in words.

    Each part of the set is split by time: training, then validation (early stopping, tiers), then test, which only the
    card sees; calibration and prior are fitted on the first two. Rows whose horizon reaches into the next period are
    left out.
    """
    # Layers this small gain nothing from a second thread, and lose much where others use the cores.
    torch.set_num_threads(1)
    facts, parts = read(shards)
    if len(facts.horizons_s) != 2:
        raise ModelError(f"The set has horizons {facts.horizons_s}; this network answers two. Make a set with two.")
    periods = split(facts, parts, recipe)
    for name, period in periods._asdict().items():
        tips = int(period.tips[:, -1].sum())
        say(f"{name}: {len(period.weight):,} rows, {tips:,} with a tip, for {period.weight.sum():,.0f} events")
        if not period.tips[:, 0].sum() or period.tips.all():
            raise ModelError(f"The {name} period needs rows with and without a tip. Record or simulate more traffic.")

    def report(epoch: int, training: float, validation: float) -> None:
        say(f"epoch {epoch}: training loss {training:.5f}, validation loss {validation:.5f}")

    network = fit(facts, periods.train, periods.validation, recipe, report)
    # On both periods: the tips of the later one alone are those of too few people to tell a rate by, and early stopping
    # has kept the network from knowing the earlier one by heart.
    known = concatenate([periods.train, periods.validation])
    calibrate(network, known)
    p_tip, _ = predict(network, periods.validation)
    onnx = onnx_bytes(network)
    manifest = Manifest(
        name=label.name,
        version=label.version,
        sha256=hashlib.sha256(onnx).hexdigest(),
        features=facts.features,
        columns=facts.columns,
        history=facts.history,
        horizons_s=facts.horizons_s,
        tiers=tiers(p_tip[:, -1], periods.validation.weight, recipe),
        prior=fit_prior(facts, known),
        trained_on=facts.source,
        created=label.created,
    )
    verdict = judge(manifest, periods.test, *predict(network, periods.test))
    manifest = msgspec.structs.replace(manifest, metrics=verdict.figures())
    write(out, Artifact(manifest, onnx), card(manifest, facts, recipe, verdict, len(onnx)))
    return manifest


class Periods(NamedTuple):
    """Three stretches of time, in order, a horizon apart."""

    train: Rows
    validation: Rows
    test: Rows


def split(facts: Facts, parts: Sequence[Rows], recipe: Recipe) -> Periods:
    """Cut each part by time, and join what falls into each period."""
    cut = [_split_part(facts, rows, recipe) for rows in parts]
    return Periods(*(concatenate(rows) for rows in zip(*cut, strict=True)))


def _split_part(facts: Facts, rows: Rows, recipe: Recipe) -> Periods:
    order = np.argsort(rows.time_ms, kind="stable")
    time_ms = rows.time_ms[order]
    until_ms = [
        int(time_ms[int(len(order) * share)]) for share in (1 - recipe.validation - recipe.test, 1 - recipe.test)
    ]
    starts = [0, *np.searchsorted(time_ms, until_ms).tolist()]
    ends = [*np.searchsorted(time_ms, np.array(until_ms) - 1000 * facts.horizons_s[-1]).tolist(), len(order)]
    return Periods(*(rows.where(order[start:end]) for start, end in zip(starts, ends, strict=True)))


def tiers(p: NDArray[np.float32], weight: NDArray[np.float32], recipe: Recipe) -> tuple[Tier, ...]:
    """Thresholds on p (n,) that the recipe's shares of the events reach."""
    order = np.argsort(p)[::-1]
    share = np.cumsum(weight[order], dtype=np.float64) / weight.sum(dtype=np.float64)
    found = [
        Tier(name, float(f"{p[order[np.searchsorted(share, wanted)]]:.4g}")) for name, wanted in recipe.tiers.items()
    ]
    return (Tier("none", 0.0), *found)


def write(folder: Path, model: Artifact, text: str) -> None:
    """Write a model folder, the manifest last: a folder without one is no model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    (folder / ONNX_FILE).write_bytes(model.onnx)
    (folder / CARD_FILE).write_text(text)
    (folder / MANIFEST_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(model.manifest)) + b"\n")
