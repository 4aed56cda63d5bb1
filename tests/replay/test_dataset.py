"""A training set of simulated traffic against one made slowly, all of it in memory."""

from pathlib import Path

import numpy as np
import pytest

from engines.model import ModelError
from engines.train.dataset import Rows, read
from features.catalogue import FEATURES, HISTORY_LENGTH, N_CHANNELS, fingerprint
from features.engine import FeatureEngine
from features.events import ROOM_LEVEL
from replay.dataset import HORIZONS_S, PRIOR_COLUMNS, Sampling, write_dataset
from replay.labels import Tips
from replay.simulate import Moment, Traffic, simulate


@pytest.fixture(scope="module")
def traffic() -> list[Moment]:
    return list(simulate(Traffic(seed=3, rate=10, duration_s=1_300, viewers=100, tips=40, truth=True)))


def made(traffic: list[Moment], folder: Path, negatives: float) -> Rows:
    write_dataset(traffic, folder, source="simulated", sampling=Sampling(negatives, seed=1), shard_rows=1_000)
    return read(folder)[1][0]


def test_every_event_that_is_scored_becomes_a_row_with_what_followed_it(traffic: list[Moment], tmp_path: Path) -> None:
    rows = made(traffic, tmp_path, negatives=1.0)
    events = [event for moment in traffic for event in moment.events]
    arrive_ms = [int(time) for moment in traffic for time in moment.arrive_ms]
    tips = Tips(HORIZONS_S)
    engine = FeatureEngine()
    engine.open(0)
    features, times, labels, seen = [], [], [], set()
    for event in events:
        if event.event_id not in seen:
            seen.add(event.event_id)
            tips.see(event)
    seen.clear()
    for event, arrived in zip(events, arrive_ms, strict=True):
        batch = engine.prepare([event], [0], [arrived])
        engine.admit(batch.missing, [None] * len(batch.missing))
        computed = engine.compute(batch)
        if event.type not in ROOM_LEVEL and event.event_id not in seen:
            features.append(computed.features[0])
            times.append(event.event_time_ms)
            labels.append(tips.label(event.viewer_id, event.room_id, event.event_time_ms))
        seen.add(event.event_id)
    n = len(rows.weight)
    assert len(times) - n < 10 * 900  # the end of the traffic never saw its horizon
    assert n > 2_000
    np.testing.assert_array_equal(rows.time_ms, times[:n])
    np.testing.assert_array_equal(rows.features, np.array(features[:n]))
    assert (rows.weight == 1).all()
    assert rows.tips[:, 1].sum() > 50
    late = np.array([label.tips for label in labels[:n]]) != rows.tips
    assert late.mean() < 0.001  # reversals that came after a row was labelled
    assert np.isfinite(rows.latent).all()


def test_negatives_are_sampled_and_weighted_back(traffic: list[Moment], tmp_path: Path) -> None:
    whole, part = made(traffic, tmp_path / "whole", 1.0), made(traffic, tmp_path / "part", 0.2)
    assert part.tips[:, 1].sum() == whole.tips[:, 1].sum()
    assert part.amount_minor.sum() == whole.amount_minor.sum()
    assert part.weight.sum() == pytest.approx(whole.weight.sum(), rel=0.05)
    assert set(part.weight.tolist()) == {1.0, 5.0}


def test_the_facts_are_the_catalogue_s(traffic: list[Moment], tmp_path: Path) -> None:
    made(traffic[:900], tmp_path, 1.0)
    facts, _ = read(tmp_path)
    assert facts.features == fingerprint()
    assert facts.columns == tuple(feature.name for feature in FEATURES)
    assert facts.history == (HISTORY_LENGTH, N_CHANNELS)
    assert set(PRIOR_COLUMNS) <= set(facts.columns)


def test_a_part_is_not_written_twice(traffic: list[Moment], tmp_path: Path) -> None:
    made(traffic, tmp_path, 0.1)
    with pytest.raises(ModelError, match="already holds a training set"):
        made(traffic, tmp_path, 0.1)
