"""Boosted trees beside the network: they have a share of its logit where a tip is likely, in the same graph.

The trees are symmetric: all nodes of one depth ask the same question, so the answers to D questions are the bits of a
leaf's number, and a tree is D comparisons and one look-up, which a graph of plain operators holds. CatBoost grows such
trees (Prokhorenkova et al., "CatBoost: unbiased boosting with categorical features", NeurIPS 2018).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from catboost import CatBoostClassifier, CatBoostError, Pool

from engines.model import ModelError
from engines.train.dataset import Facts, Rows
from engines.train.inputs import unseen
from engines.train.network import Trees
from engines.train.recipe import Recipe

_LEAF_PENALTY: Final = 10.0
_FEATURES_A_SPLIT: Final = 0.3
_ROWS_A_TREE: Final = 0.8
_BORDERS: Final = 128  # of a feature, at most
# At quantiles: CatBoost's usual ones, of greatest entropy, find a seventh less of what is at the top (docs/model.md).
_BORDERS_AT: Final = "Median"
_STEP: Final = 50  # trees between two reports


def grow(facts: Facts, rows: Rows, recipe: Recipe, say: Callable[[str], None]) -> Trees:
    """Grow the recipe's trees for the longest horizon, on all cores; they see no history. Raises ModelError."""
    booster = CatBoostClassifier(
        loss_function="Logloss",
        iterations=recipe.trees,
        depth=recipe.depth,
        learning_rate=recipe.trees_rate,
        l2_leaf_reg=_LEAF_PENALTY,
        rsm=_FEATURES_A_SPLIT,
        bootstrap_type="Bernoulli",
        subsample=_ROWS_A_TREE,
        border_count=_BORDERS,
        feature_border_type=_BORDERS_AT,
        boosting_type="Plain",
        ignored_features=np.flatnonzero(unseen(facts, recipe.without)).tolist(),
        random_seed=recipe.seed,
        allow_writing_files=False,
        verbose=False,
    )
    pool = Pool(rows.features, rows.tips[:, -1].astype(np.int8), weight=rows.weight)
    try:
        booster.fit(pool, callbacks=[_Progress(recipe.trees, say)])
    except CatBoostError as error:  # no feature that differs between rows, say
        raise ModelError(f"CatBoost grows no trees on these rows ({error}). Train with `trees = 0`.") from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trees.json"
        booster.save_model(str(path), format="json")
        return read(json.loads(path.read_bytes()), recipe.depth)


def read(model: dict[str, Any], depth: int) -> Trees:
    """Read what CatBoost wrote as JSON; trees with fewer questions get ones that are always answered with no."""
    scale, (bias,) = model["scale_and_bias"]
    grown = model["oblivious_trees"]
    feature = np.zeros((depth, len(grown)), np.int32)
    border = np.full((depth, len(grown)), np.inf, np.float32)
    leaf = np.zeros((len(grown), 2**depth), np.float32)
    for number, tree in enumerate(grown):
        for at, question in enumerate(tree["splits"] or ()):
            feature[at, number], border[at, number] = question["float_feature_index"], question["border"]
        leaf[number, : len(tree["leaf_values"])] = np.multiply(tree["leaf_values"], scale)
    leaf[0] += bias  # where trees have fewer questions, leaves that no row reaches as well
    return Trees(feature, border, leaf)


class _Progress:
    """Tells of trees while they grow; CatBoost calls it after each."""

    def __init__(self, trees: int, say: Callable[[str], None]) -> None:
        self._trees = trees
        self._say = say

    def after_iteration(self, info: Any) -> bool:
        if info.iteration % _STEP == 0 or info.iteration == self._trees:
            self._say(f"trees: {info.iteration} of {self._trees}")
        return True  # go on
