"""A recording through `tipstream-replay score`, the score file written; inference excluded: tip history answers.

CPU time of the whole process, which other work on the machine changes little. The aim is 5 million events a minute on
one core, 12 us an event.
"""

import asyncio
import gc
import time
from pathlib import Path
from typing import Any

import pytest

from engines.manifest import read_manifest
from engines.prior import PriorModel
from features.engine import warm_up
from replay.offline import score
from replay.recording import Recording, Writer
from replay.simulate import Traffic, simulate
from replay.simulate.recorded import records
from scorer import garbage
from scorer.service import REFERENCE_MODEL

TRAFFIC = Traffic(seed=2, rate=1_000, duration_s=300)
ROUNDS = 3


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "traffic.parquet"
    with Writer(path, source="simulated") as writer:
        for moment in simulate(TRAFFIC):
            writer.write(records(moment, TRAFFIC))
    return path


@pytest.mark.timeout(300)
@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("partitions", [1, 8])
def test_score(benchmark: Any, recording: Path, tmp_path: Path, partitions: int) -> None:
    model = PriorModel(read_manifest(REFERENCE_MODEL))
    warm_up()

    def run() -> int:
        with Recording(recording) as file:
            done = asyncio.run(score(file, model, tmp_path / "scores.parquet", partitions=partitions))
        return done.counts["consumed"]

    garbage.take_over()
    try:
        events = benchmark.pedantic(run, rounds=ROUNDS, warmup_rounds=1)
    finally:
        gc.enable()
        gc.unfreeze()
    each = benchmark.stats.stats.min / events
    benchmark.extra_info["us_per_event"] = round(each * 1e6, 2)
    benchmark.extra_info["million_a_minute"] = round(60 / each / 1e6, 2)
    print(f"  {partitions} partitions: {each * 1e6:.2f} us an event, {60 / each / 1e6:.2f} million events a minute")
