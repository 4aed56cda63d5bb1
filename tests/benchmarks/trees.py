"""The model against gradient-boosted trees on the same features, through the same pipeline.

python -m tests.benchmarks.trees SET RECORDING --model FOLDER [--after FILE ...]

LightGBM is trained on the training set SET, all of it, as the model was; then both score RECORDING, as the service
would after the recordings in `--after`. PR-AUC of rare tips moves much by chance, so that the two are compared on the
same resampled rooms: `ratio` is the model's PR-AUC over the trees', with its median and 90 % interval.
Needs the extra `tipstream[compare]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

try:
    import lightgbm
except ImportError as error:
    raise SystemExit(f"{error}: this needs LightGBM: pip install 'tipstream[compare]'") from None

from engines import metrics
from engines.cpu import OnnxModel
from engines.ladder import Ladder
from engines.model import Model, ModelError
from engines.prior import PriorModel
from engines.train.dataset import concatenate, read
from features.catalogue import fingerprint
from replay.dataset import HORIZONS_S
from replay.offline import Offline
from replay.outcomes import all_tips
from replay.recording import Recording, RecordingError

HORIZON_S: Final = HORIZONS_S[-1]
# Chosen as the network's recipe was, on the last half year of the tape's train.parquet: more trees fit it worse.
PARAMETERS: Final = {
    "objective": "binary", "num_leaves": 31, "learning_rate": 0.02, "min_data_in_leaf": 300, "feature_fraction": 0.3,
    "bagging_fraction": 0.8, "bagging_freq": 1, "lambda_l2": 10.0, "seed": 1, "verbose": -1,
}  # fmt: skip
TREES: Final = 400
_RESAMPLES: Final = 300


class Told(NamedTuple):
    """What followed n events, and what each scorer said of them."""

    tip: NDArray[np.bool_]
    """(n,) within the longest horizon."""
    room: NDArray[np.int64]
    """(n,) a number for each room."""
    p: dict[str, NDArray[np.float64]]
    """Name -> (n,)."""


Scorer = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[Any]]
"""Features (n, F) and history (n, L, C) to probabilities (n,)."""


def grow(shards: Path) -> Scorer:
    """Train the trees on a training set."""
    rows = concatenate(read(shards)[1])
    data = lightgbm.Dataset(rows.features, rows.tips[:, -1], weight=rows.weight)
    booster = lightgbm.train(PARAMETERS, data, TREES)
    return lambda features, _: np.asarray(booster.predict(features))


def served(model: Model) -> Scorer:
    """Ask a model for the longest horizon."""
    return lambda features, history: model.infer(features, history).p_tip[:, -1]


async def tell(path: Path, after: Sequence[Path], scorers: dict[str, Scorer], nobody: Model) -> Told:
    """Have scorers look at a recording in one pass; events whose horizon it does not cover are left out."""
    run = Offline(Ladder([], nobody))
    for before in after:
        with Recording(before) as recording:
            await run.follow(recording)
    tip: list[bool] = []
    room: list[str] = []
    p: dict[str, list[NDArray[Any]]] = {name: [] for name in scorers}
    with Recording(path) as recording:
        tips, end_ms = all_tips(recording)
        async for work in run.read(recording):
            known = [i for i in work.to_score.tolist() if work.events[i].event_time_ms <= end_ms - 1000 * HORIZON_S]
            if not known:
                continue
            for event in (work.events[i] for i in known):
                tip += tips.label((event.viewer_id, event.room_id), event.event_time_ms, (HORIZON_S,)).tips
                room.append(event.room_id)
            for name, scorer in scorers.items():
                p[name].append(scorer(work.features[known], work.history[known]).astype(np.float64))
    _, number = np.unique(room, return_inverse=True)
    return Told(np.array(tip), number, {name: np.concatenate(parts) for name, parts in p.items()})


def ratios(told: Told, a: str, b: str, resamples: int = _RESAMPLES) -> NDArray[np.float64]:
    """PR-AUC of scorer `a` over that of `b`, each time on the same rooms drawn anew: (resamples,)."""
    rng = np.random.default_rng(1)
    rooms = int(told.room.max()) + 1
    drawn = (np.bincount(rng.integers(0, rooms, rooms), minlength=rooms) for _ in range(resamples))
    weights = (count[told.room].astype(np.float64) for count in drawn)
    return np.array([_pr_auc(told, a, weight) / _pr_auc(told, b, weight) for weight in weights])


def figures(told: Told, name: str) -> dict[str, float]:
    """PR-AUC, AUC, recall at 1 % and mean p over the base rate."""
    p, weight = told.p[name], np.ones(len(told.tip))
    return {
        "pr_auc": _pr_auc(told, name, weight),
        "auc": metrics.roc_auc(told.tip, p, weight),
        "recall_at_1pct": metrics.recall_at(told.tip, p, weight),
        "mean_p_over_base_rate": float(p.mean() / told.tip.mean()),
    }


def recorded(text: str) -> Path:
    """Check that a file is a recording."""
    try:
        with Recording(Path(text)):
            return Path(text)
    except RecordingError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the trees, score, compare."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.trees", description=__doc__)
    parser.add_argument("shards", type=Path, metavar="SET")
    parser.add_argument("recording", type=recorded, metavar="RECORDING")
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="trained on the same set")
    parser.add_argument("--after", type=recorded, nargs="+", default=[], metavar="FILE", help="recordings before it")
    options = parser.parse_args(arguments)
    try:
        model = OnnxModel.load(options.model, features=fingerprint())
        trees = grow(options.shards)
    except ModelError as error:
        raise SystemExit(str(error)) from None
    prior = PriorModel(model.manifest)
    scorers = {"model": served(model), "trees": trees, "tip history only": served(prior)}
    told = asyncio.run(tell(options.recording, options.after, scorers, prior))
    result: dict[str, Any] = {name: figures(told, name) for name in scorers}
    for name in ("trees", "tip history only"):
        low, middle, high = np.quantile(ratios(told, "model", name), (0.05, 0.5, 0.95)).tolist()
        result[f"model over {name}"] = {"ratio": middle, "from": low, "to": high}
    print(json.dumps(result, indent=2))


def _pr_auc(told: Told, name: str, weight: NDArray[np.float64]) -> float:
    drawn = weight > 0
    return metrics.pr_auc(told.tip[drawn], told.p[name][drawn], weight[drawn])


if __name__ == "__main__":
    main()
