"""Made-up rows whose tips follow from known causes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engines.train.dataset import Facts, Rows, ShardWriter, begin
from engines.train.recipe import Recipe
from engines.train.run import Label

FACTS = Facts(
    features="feedfeedfeedfeed",
    columns=("tips", "minor", "comments", "constant", "noise"),
    prior_columns=("tips", "minor"),
    history=(6, 4),
    type_codes=5,
    horizons_s=(60, 600),
    source="made up, seed 7",
)
LABEL = Label("made-up", "1", "2021-07-01T00:00:00Z")
RECIPE = Recipe(
    network_without=(), tokens=4, heads=2, members=3, hidden=(16, 8), input_dropout=0, epochs=3, batch=256,
    learning_rate=1e-2, trees=20, depth=4, trees_rate=0.3, trees_above=1.0,
)  # fmt: skip


def made_up(n: int, seed: int = 7) -> Rows:
    """Rows whose tips follow from one feature, one feature that is no tip history, and the newest event's type."""
    rng = np.random.default_rng(seed)
    features = rng.exponential(1, (n, 5)).astype(np.float32)
    features[:, 3] = 2
    history = np.zeros((n, 6, 4), np.float32)
    history[:, :, 0] = rng.integers(0, 5, (n, 6))
    history[:, :, 1:] = rng.random((n, 6, 3)) * 10
    latent = 1 / (1 + np.exp(4.0 - features[:, 0] - features[:, 2] - (history[:, 0, 0] == 3)))
    longest = rng.random(n) < latent
    tips = np.stack([longest & (rng.random(n) < 0.3), longest], axis=1)
    amount = np.where(longest, np.exp(rng.normal(5, 1, n) + features[:, 0] / 2), 0).astype(np.int64)
    time_ms = np.sort(rng.integers(0, 10**9, n))
    return Rows(time_ms, features, history, tips, amount, np.ones(n, np.float32), latent.astype(np.float32))


def write(folder: Path, facts: Facts, rows: Rows) -> None:
    """A set of one shard."""
    begin(folder, facts)
    writer = ShardWriter(folder)
    writer.write(rows)
    writer.end()
