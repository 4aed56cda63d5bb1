"""The trees: what they say is what CatBoost says, they see no more than they may, and have their share of the logit."""

import json
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="needs the train extra: pip install 'tipstream[train]'")

from catboost import CatBoostClassifier, Pool  # noqa: E402

from engines.model import ModelError  # noqa: E402
from engines.train.fit import fit, logits  # noqa: E402
from engines.train.network import Network, Trees  # noqa: E402
from engines.train.trees import grow, read  # noqa: E402
from tests.engines.train.made_up import FACTS, RECIPE, made_up  # noqa: E402

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def network() -> Network:
    rows = made_up(2_000)
    return fit(FACTS, rows, None, replace(RECIPE, epochs=1), until=1)


def said(network: Network, trees: Trees, features: NDArray[np.float32]) -> NDArray[np.float32]:
    network.plant(trees, 0.5, 0.0)
    with torch.no_grad():
        return np.asarray(network._leaves(torch.from_numpy(features)))


def test_they_say_what_catboost_says(network: Network, tmp_path: Path) -> None:
    rows, unseen = made_up(4_000), made_up(500, seed=9)
    booster = CatBoostClassifier(iterations=30, depth=3, verbose=False, allow_writing_files=False)
    booster.fit(Pool(rows.features, rows.tips[:, 1].astype(np.int8)))
    booster.save_model(str(tmp_path / "trees.json"), format="json")
    trees = read(json.loads((tmp_path / "trees.json").read_bytes()), depth=3)
    expected = booster.predict(unseen.features, prediction_type="RawFormulaVal")
    np.testing.assert_allclose(said(network, trees, unseen.features), expected, atol=1e-5)


def test_a_tree_with_fewer_questions_has_fewer_leaves(network: Network) -> None:
    asked = [{"float_feature_index": 2, "border": 1.5}, {"float_feature_index": 0, "border": 0.5}]
    grown = [
        {"splits": asked, "leaf_values": [1.0, 2.0, 4.0, 8.0]},
        {"splits": asked[:1], "leaf_values": [0.0, 16.0]},
        {"splits": None, "leaf_values": [32.0]},
    ]
    trees = read({"scale_and_bias": [0.5, [7.0]], "oblivious_trees": grown}, depth=2)
    features = np.zeros((4, 5), np.float32)
    features[1:, 2] = (1.5, 2, 2)  # not above 1.5; above
    features[3, 0] = 1
    assert said(network, trees, features).tolist() == [23.5, 23.5, 32.0, 35.0]


def test_they_learn_what_they_may_see() -> None:
    rows = made_up(4_000)
    lines: list[str] = []
    trees = grow(FACTS, rows, replace(RECIPE, without=("t*", "noise")), lines.append)
    assert trees.feature.shape == (RECIPE.depth, RECIPE.trees)
    asked = trees.feature[np.isfinite(trees.border)]
    assert set(asked.tolist()) <= {1, 2}  # minor, comments; one is a constant
    assert lines == ["trees: 20 of 20"]


def test_rows_that_no_tree_can_tell_apart_are_named() -> None:
    rows = made_up(200)
    alike = rows._replace(features=np.ones_like(rows.features))
    with pytest.raises(ModelError, match=r"grows no trees on these rows .* `trees = 0`"):
        grow(FACTS, alike, RECIPE, lambda _: None)


def test_they_have_a_share_of_the_logit_and_of_nothing_else(network: Network) -> None:
    rows = made_up(100)
    trees = grow(FACTS, made_up(4_000), RECIPE, lambda _: None)
    found = {}
    for share in (0.0, 0.25, 1.0):
        network.plant(trees, share, -100.0)
        found[share] = logits(network, rows)
    torch.testing.assert_close(found[0.25].tip, 0.75 * found[0.0].tip + 0.25 * found[1.0].tip)
    torch.testing.assert_close(found[1.0].tip, torch.from_numpy(said(network, trees, rows.features)))
    assert (found[0.25].soon == found[0.0].soon).all()
    assert (found[0.25].log_amount == found[0.0].log_amount).all()


def test_below_the_floor_they_are_not_asked(network: Network) -> None:
    rows = made_up(100)
    trees = grow(FACTS, made_up(4_000), RECIPE, lambda _: None)
    network.plant(trees, 0.0, 0.0)
    alone, theirs = logits(network, rows).tip, torch.from_numpy(said(network, trees, rows.features))
    floor = float(torch.cat([alone, theirs]).median())
    network.plant(trees, 0.25, floor)
    together = logits(network, rows).tip
    neither = (alone < floor) & (theirs < floor)
    both = (alone > floor) & (theirs > floor)
    assert neither.any()
    assert both.any()
    assert (together[neither] == alone[neither]).all()
    torch.testing.assert_close(together[both], 0.75 * alone[both] + 0.25 * theirs[both])
