"""The model against gradient-boosted trees on the same features, through the same pipeline.

python -m tests.benchmarks.trees SET RECORDING --model FOLDER [--after FILE ...] [--out FOLDER]

LightGBM is trained on the training set SET, all of it, as the model was; then both score RECORDING, as the service
would after the recordings in `--after`. PR-AUC of rare tips moves much by chance, so that the two are compared on the
same resampled rooms: `ratio` is the model's PR-AUC over the trees', with its median and 90 % interval.
Needs the extra `tipstream[compare]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import lightgbm
import msgspec
import numpy as np
from numpy.typing import NDArray

from engines import metrics
from engines.cpu import OnnxModel
from engines.manifest import Manifest
from engines.model import BUCKETS, Model, Scores
from engines.prior import PriorModel
from engines.train.dataset import concatenate, read
from features.catalogue import fingerprint
from features.engine import warm_up
from replay.offline import score
from replay.outcomes import outcomes
from replay.recording import Recording
from replay.scores import Scores as ScoreFile

# Chosen as the network's recipe was, on the last half year of the tape's train.parquet: more trees fit it worse.
PARAMETERS: Final = {
    "objective": "binary", "num_leaves": 31, "learning_rate": 0.02, "min_data_in_leaf": 300, "feature_fraction": 0.3,
    "bagging_fraction": 0.8, "bagging_freq": 1, "lambda_l2": 10.0, "seed": 1, "verbose": -1,
}  # fmt: skip
TREES: Final = 400
_RESAMPLES: Final = 300


class Trees:
    """A `Model` of LightGBM's: the longest horizon only, no amount."""

    def __init__(self, booster: Any, manifest: Manifest) -> None:
        """Answer under the name of the manifest."""
        self._booster = booster
        self.manifest = manifest
        self.engine = "lightgbm"
        self.max_batch = BUCKETS[-1]
        self.buckets = BUCKETS

    def infer(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Scores:
        """See `Model.infer`; `history` is not used."""
        p = self._booster.predict(features, num_threads=1).astype(np.float32)
        return Scores(np.repeat(p[:, None], len(self.manifest.horizons_s), axis=1), np.zeros_like(p))

    def close(self) -> None:
        """Nothing is held."""


class Told(NamedTuple):
    """What one model said of n events, and what followed."""

    p: NDArray[np.float64]
    tip: NDArray[np.bool_]
    room: NDArray[np.int64]


def grow(shards: Path) -> Any:
    """Train the trees on a training set."""
    rows = concatenate(read(shards)[1])
    return lightgbm.train(PARAMETERS, lightgbm.Dataset(rows.features, rows.tips[:, -1], weight=rows.weight), TREES)


def tell(path: Path, model: Model, out: Path, after: Sequence[Path]) -> Told:
    """Have a model score a recording; events whose horizon it does not cover are left out."""
    with ExitStack() as files:
        recording = files.enter_context(Recording(path))
        earlier = [files.enter_context(Recording(before)) for before in after]
        asyncio.run(score(recording, model, out, after=earlier))
        scores = ScoreFile.read(out)
        found = outcomes(scores, recording)
    _, room = np.unique(scores.text("room_id"), return_inverse=True)
    return Told(scores.column("p")[found.known], found.tips[found.known, -1], room[found.known])


def ratios(a: Told, b: Told, resamples: int = _RESAMPLES) -> NDArray[np.float64]:
    """PR-AUC of `a` over that of `b`, each time on the same rooms drawn anew: (resamples,)."""
    rng = np.random.default_rng(1)
    rooms = int(a.room.max()) + 1
    drawn = (np.bincount(rng.integers(0, rooms, rooms), minlength=rooms) for _ in range(resamples))
    weights = (count[a.room].astype(np.float64) for count in drawn)
    return np.array([metrics.pr_auc(a.tip, a.p, weight) / metrics.pr_auc(b.tip, b.p, weight) for weight in weights])


def figures(told: Told) -> dict[str, float]:
    """PR-AUC, AUC, recall at 1 % and mean p over the base rate."""
    weight = np.ones(len(told.p))
    return {
        "pr_auc": metrics.pr_auc(told.tip, told.p, weight),
        "auc": metrics.roc_auc(told.tip, told.p, weight),
        "recall_at_1pct": metrics.recall_at(told.tip, told.p, weight),
        "mean_p_over_base_rate": float(told.p.mean() / told.tip.mean()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the trees, score three times, compare."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.trees", description=__doc__)
    parser.add_argument("shards", type=Path, metavar="SET")
    parser.add_argument("recording", type=Path, metavar="RECORDING")
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="trained on the same set")
    parser.add_argument("--after", type=Path, nargs="+", default=[], metavar="FILE", help="recordings that came before")
    parser.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="for score files and figures")
    options = parser.parse_args(arguments)
    warm_up()
    model = OnnxModel.load(options.model, features=fingerprint())
    manifest = msgspec.structs.replace(model.manifest, name="trees")
    models: dict[str, Model] = {
        "model": model, "trees": Trees(grow(options.shards), manifest), "tip history only": PriorModel(model.manifest)
    }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    told = {
        name: tell(options.recording, each, options.out / f"{name.replace(' ', '-')}.parquet", options.after)
        for name, each in models.items()
    }
    result: dict[str, Any] = {name: figures(each) for name, each in told.items()}
    for name in ("trees", "tip history only"):
        low, middle, high = np.quantile(ratios(told["model"], told[name]), (0.05, 0.5, 0.95)).tolist()
        result[f"model over {name}"] = {"ratio": middle, "from": low, "to": high}
    text = json.dumps(result, indent=2)
    (options.out / "trees.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
