"""The tip-history formula."""

import math

import msgspec
import numpy as np
import pytest

from engines.model import ModelError
from engines.prior import PriorModel
from tests.engines import small_models


def test_the_formula_is_the_documented_one() -> None:
    model = PriorModel(small_models.artifact().manifest)
    features = np.array([[3, 1, 9, 9, 9], [0, 0, 5, 5, 5], [np.inf, np.nan, 0, 0, 0]], np.float32)
    p_tip, value = model.infer(features, np.zeros((3, 4, 3), np.float32))
    expected = [1 / (1 + math.exp(4 - 3 - 0.5 * 1)), 1 / (1 + math.exp(4)), 1 / (1 + math.exp(4))]
    np.testing.assert_allclose(p_tip[:, 1], expected, rtol=1e-5)
    np.testing.assert_allclose(p_tip[:, 0], np.array(expected) * 0.2, rtol=1e-5)
    np.testing.assert_allclose(value, np.array(expected) * 500, rtol=1e-5)


def test_a_column_that_the_catalogue_lacks_is_named() -> None:
    manifest = msgspec.structs.replace(small_models.artifact().manifest, columns=("a", "b", "c", "d", "pair_tips_60d"))
    with pytest.raises(ModelError, match="uses viewer_tips_60d, which"):
        PriorModel(manifest)
