"""How far two models' answers are from each other."""

import msgspec
import numpy as np
import pytest

from engines.comparison import Agreement, Difference, difference
from engines.manifest import Tier
from engines.model import Scores
from tests.engines import small_models

MANIFEST = msgspec.structs.replace(small_models.artifact().manifest, tiers=(Tier("low", 0.0), Tier("high", 0.5)))


def scores(*rows: tuple[float, float]) -> Scores:
    p = np.array(rows, np.float32)
    return Scores(p, np.zeros(len(p), np.float32))


def test_a_row_differs_by_its_worst_horizon_and_flips_where_the_tier_does() -> None:
    found = difference(MANIFEST, scores((0.1, 0.4), (0.2, 0.5)), MANIFEST, scores((0.3, 0.49), (0.2, 0.499)))
    np.testing.assert_allclose(found.dp, [0.2, 0.001], atol=1e-7)
    assert (found.rows, found.flips) == (2, 1)


def test_models_of_other_horizons_and_tiers_are_compared_by_what_they_share() -> None:
    first, last = MANIFEST.horizons_s
    other = msgspec.structs.replace(
        MANIFEST,
        horizons_s=(first + 1, last),
        tiers=(Tier("low", 0.0), Tier("middle", 0.2), Tier("high", 0.5)),
    )
    found = difference(MANIFEST, scores((0.1, 0.4), (0.1, 0.6)), other, scores((0.9, 0.4), (0.9, 0.6)))
    np.testing.assert_allclose(found.dp, [0.0, 0.0])
    assert found.flips == 1


@pytest.mark.parametrize(("flips", "expected"), [(0, 1.0), (1, 0.99), (50, 0.5)])
def test_agreement_is_told_a_block_at_a_time(flips: int, expected: float) -> None:
    agreement = Agreement(100)
    half = np.zeros(50, np.float32)
    assert agreement.add(Difference(half, flips)) is None
    assert agreement.latest is None
    assert agreement.add(Difference(half, 0)) == pytest.approx(expected)
    assert agreement.latest == pytest.approx(expected)


def test_a_block_that_is_not_complete_can_be_forgotten() -> None:
    agreement = Agreement(100)
    agreement.add(Difference(np.zeros(99, np.float32), 99))
    agreement.restart()
    assert agreement.add(Difference(np.zeros(100, np.float32), 0)) == 1.0
