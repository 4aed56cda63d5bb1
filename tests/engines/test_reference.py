"""The model that the repository carries."""

from pathlib import Path

import numpy as np
import pytest

import engines
from engines.cpu import OnnxModel
from engines.manifest import ONNX_FILE, read_manifest
from engines.prior import PriorModel

FOLDER = Path(engines.__file__).parent / "models" / "reference"


@pytest.fixture(scope="module")
def model() -> OnnxModel:
    return OnnxModel.load(FOLDER, features=read_manifest(FOLDER).features)


def test_it_is_small_and_says_how_good_it_is(model: OnnxModel) -> None:
    assert (FOLDER / ONNX_FILE).stat().st_size < 1_000_000
    figures = model.manifest.metrics
    assert figures["pr_auc_tip_history_only"] < figures["pr_auc"] < figures["pr_auc_ceiling"]
    assert 0.9 < figures["mean_p_over_base_rate"] < 1.1
    assert model.manifest.sha256 in (FOLDER / "MODEL_CARD.md").read_text()


def test_a_row_scores_the_same_in_every_slot_and_split(model: OnnxModel) -> None:
    rng = np.random.default_rng(1)
    features = rng.exponential(4.0, (256, model.manifest.n_features)).astype(np.float32)
    history = rng.exponential(4.0, (256, *model.manifest.history)).astype(np.float32)
    whole = model.infer(features, history)
    assert (np.diff(whole.p_tip, axis=1) >= 0).all()
    for size in (1, 8, 100):
        parts = [model.infer(features[i : i + size], history[i : i + size]) for i in range(0, 256, size)]
        np.testing.assert_allclose(np.concatenate([part.p_tip for part in parts]), whole.p_tip, atol=1e-6)
        np.testing.assert_allclose(np.concatenate([part.value for part in parts]), whole.value, rtol=1e-4, atol=1e-6)


def test_its_prior_answers_too(model: OnnxModel) -> None:
    prior = PriorModel(model.manifest)
    shapes = (4, model.manifest.n_features), (4, *model.manifest.history)
    p_tip, value = prior.infer(np.zeros(shapes[0], np.float32), np.zeros(shapes[1], np.float32))
    assert ((p_tip > 0) & (p_tip < 1)).all()
    assert (value > 0).all()
