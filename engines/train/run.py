"""One training run: a set of rows in, a model folder out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from engines.manifest import MANIFEST_FILE, ONNX_FILE, Artifact, Manifest, Tier
from engines.model import ModelError
from engines.train.calibrate import calibrate, fit_prior, slopes
from engines.train.card import CARD_FILE, card
from engines.train.dataset import Facts, Rows, concatenate, read
from engines.train.export import onnx_bytes
from engines.train.fit import Epoch, fit, predict
from engines.train.judge import judge
from engines.train.log import write_log
from engines.train.network import Network
from engines.train.recipe import Recipe
from engines.train.trees import grow


class Label(NamedTuple):
    """What a person calls the model."""

    name: str
    version: str
    created: str
    """ISO 8601, UTC."""


def train(shards: Path, out: Path, label: Label, recipe: Recipe, say: Callable[[str], None]) -> Manifest:
    """Train on the set in `shards` and write model, manifest, card and log to `out`; raises ModelError in words.

    Rows are split by time: training, then validation (early stopping, calibration, tiers), then test, which only the
    card sees. Once the card's figures are taken, the network that is kept is trained on all the rows, for as many
    epochs; how far its logits are to be trusted was seen on the two periods which the first was not trained on.
    """
    # Layers this small gain nothing from a second thread, and lose much where others use the cores.
    torch.set_num_threads(1)
    facts, parts = read(shards)
    if len(facts.horizons_s) != 2:
        raise ModelError(f"The set has horizons {facts.horizons_s}; this network answers two. Make a set with two.")
    with _writing(out), TemporaryFile(dir=out):  # before minutes are spent on what could not be kept
        pass
    with suppress(OSError):
        out.rmdir()  # no folder is left where nothing comes of it
    rows = concatenate(parts)
    del parts  # as large as the rows
    periods = split(facts, rows, recipe)
    for name, period in periods._asdict().items():
        tips = int(period.tips[:, -1].sum())
        say(f"{name}: {len(period.weight):,} rows, {tips:,} with a tip, for {period.weight.sum():,.0f} events")
        if not period.tips[:, 0].sum() or period.tips.all():
            raise ModelError(f"The {name} period needs rows with and without a tip. Record or simulate more traffic.")

    epochs: list[Epoch] = []

    def report(epoch: Epoch) -> None:
        epochs.append(epoch)
        say(
            f"epoch {epoch.epoch}: training loss {epoch.training_loss:.5f}, validation loss "
            f"{epoch.validation_loss:.5f}, PR-AUC {epoch.pr_auc:.4f}, AUC {epoch.auc:.4f}, {epoch.seconds:.0f} s"
        )

    first = fit(facts, periods.train, periods.validation, recipe, report)
    plant(first, facts, periods.train, recipe, say)
    known = concatenate([periods.train, periods.validation])
    trusted = slopes(first, concatenate([periods.validation, periods.test]))
    calibrate(first, slopes(first, periods.validation), known)
    manifest = Manifest(
        name=label.name,
        version=label.version,
        sha256="",
        features=facts.features,
        columns=facts.columns,
        history=facts.history,
        horizons_s=facts.horizons_s,
        tiers=tiers(predict(first, periods.validation)[0][:, -1], periods.validation.weight, recipe),
        prior=fit_prior(facts, known),
        trained_on=facts.source,
        created=label.created,
    )
    tested = predict(first, periods.test)
    verdict = judge(manifest, periods.test, *tested)

    best = min(epochs, key=lambda epoch: epoch.validation_loss).epoch
    say(f"The network to keep: all {len(rows.weight):,} rows, {best} epochs.")
    network = fit(facts, rows, None, recipe, until=best)
    plant(network, facts, rows, recipe, say)
    calibrate(network, trusted, rows)
    onnx = onnx_bytes(network)
    manifest = msgspec.structs.replace(manifest, sha256=hashlib.sha256(onnx).hexdigest(), metrics=verdict.figures())
    with _writing(out):
        write(out, Artifact(manifest, onnx), card(manifest, facts, recipe, verdict, len(onnx)))
        write_log(out, manifest, epochs, periods.test, tested[0], verdict)
    return manifest


def plant(network: Network, facts: Facts, rows: Rows, recipe: Recipe, say: Callable[[str], None]) -> None:
    """Grow the recipe's trees on the rows that a network was trained on, and let them have their say."""
    if recipe.trees:
        rate = np.average(rows.tips[:, -1], weights=rows.weight)
        likely = min(recipe.trees_above * rate, 0.5)
        network.plant(grow(facts, rows, recipe, say), recipe.trees_share, math.log(likely / (1 - likely)))


class Periods(NamedTuple):
    """Three stretches of time, in order, a horizon apart."""

    train: Rows
    validation: Rows
    test: Rows


def split(facts: Facts, rows: Rows, recipe: Recipe) -> Periods:
    """Cut by time; rows whose horizon reaches into the next period are left out."""
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
    """Fill a model folder, the manifest last: a folder without one is no model; raises OSError."""
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    (folder / ONNX_FILE).write_bytes(model.onnx)
    (folder / CARD_FILE).write_text(text)
    (folder / MANIFEST_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(model.manifest)) + b"\n")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Make a folder for what is written within; what the disk refuses becomes a sentence."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ModelError(
            f"The model cannot be written to {folder} ({error.strerror}). Name another folder with --out."
        ) from error
