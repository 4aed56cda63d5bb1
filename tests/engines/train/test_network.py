"""The network: what it may not see changes nothing, members stay apart, and pieces say how far along a feature is."""

import numpy as np
import pytest

from engines.model import ModelError

torch = pytest.importorskip("torch", reason="needs the train extra: pip install 'tipstream[train]'")

import msgspec  # noqa: E402

from engines import metrics  # noqa: E402
from engines.train.export import onnx_bytes  # noqa: E402
from engines.train.fit import fit, predict  # noqa: E402
from engines.train.inputs import measure, unseen  # noqa: E402
from engines.train.network import Members, Network, Shape  # noqa: E402
from tests.engines.train.made_up import FACTS, RECIPE, made_up  # noqa: E402

pytestmark = pytest.mark.train


def test_pieces_cover_each_range_once() -> None:
    rows = made_up(4_000)
    found = measure(FACTS, rows, pieces=8, without=("noise",), rng=np.random.default_rng(1))
    pieces = found.pieces
    assert set(pieces.feature.tolist()) == {0, 1, 2}  # neither the constant nor what is not to be seen
    for column in (0, 1, 2):
        mine = pieces.feature == column
        low, width = pieces.low[mine], 1 / pieces.inverse_width[mine]
        np.testing.assert_allclose(low[1:], (low + width)[:-1], rtol=1e-4)
        assert low[0] == rows.features[:, column].min()
        assert (low + width)[-1] == pytest.approx(rows.features[:, column].max())
    assert found.inverse_std[3] == found.inverse_std[4] == 0
    assert found.inverse_std[0] == pytest.approx(1 / rows.features[:, 0].std(), rel=1e-3)


def test_a_network_learns_a_step_in_one_feature() -> None:
    """Tips if a feature lies between two values: nothing for a line, little for standardised inputs."""
    rows = made_up(8_000)
    inside = (rows.features[:, 4] > 0.5) & (rows.features[:, 4] < 0.7)
    tips = np.stack([inside & (np.arange(8_000) % 3 == 0), inside], axis=1)
    rows = rows._replace(tips=tips, amount_minor=np.where(inside, 100, 0))
    found = {}
    for pieces in (0, 16):
        recipe = msgspec.structs.replace(RECIPE, pieces=pieces, members=1, hidden=(8, 4), epochs=2)
        p, _ = predict(fit(FACTS, rows, rows, recipe, lambda _: None), rows)
        found[pieces] = metrics.pr_auc(rows.tips[:, 1], p[:, 1], rows.weight)
    assert found[16] > 1.3 * found[0]


def test_what_it_is_not_to_see_changes_nothing() -> None:
    rows = made_up(2_000)
    recipe = msgspec.structs.replace(RECIPE, without=("t*", "history"), epochs=1)
    network = fit(FACTS, rows, rows, recipe, lambda _: None)
    rng = np.random.default_rng(3)
    changed = rows._replace(features=rows.features.copy(), history=rng.permutation(rows.history))
    changed.features[:, 0] += 3  # `tips` is its name
    before, after = (predict(network, some)[0] for some in (rows, changed))
    np.testing.assert_array_equal(before, after)
    changed.features[:, 1] += 3
    assert (predict(network, changed)[0] != before).any()


def test_a_pattern_that_names_nothing_is_refused() -> None:
    with pytest.raises(ModelError, match="No feature is called 'rooms_"):
        unseen(FACTS, ("rooms_*",))


def test_members_do_not_see_each_other() -> None:
    layer = Members(3, 4, 2)
    below = torch.randn(3, 5, 4)
    changed = below.clone()
    changed[1] += 1
    moved = (layer(below) != layer(changed)).flatten(1).any(1)
    assert moved.tolist() == [False, True, False]


def test_they_answer_by_their_mean_logit() -> None:
    torch.manual_seed(1)
    network = Network(Shape(5, (6, 4), 5, pieces=0, tokens=4, heads=2, members=3, hidden=(8, 4))).eval()
    rows = made_up(50)
    with torch.no_grad():
        inputs = torch.from_numpy(rows.features), torch.from_numpy(rows.history)
        each, together = network.members(*inputs), network.outputs(*inputs)
    assert each.tip.shape == (3, 50)
    torch.testing.assert_close(each.tip.mean(0), together.tip)
    assert len(onnx_bytes(network)) > 0  # without pieces too
