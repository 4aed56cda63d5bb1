"""Memory of `simulate` and `score` over a long run: what each has resident, million by million.

    python -m tests.benchmarks.memory --events 25_000_000

Takes a minute and a half of CPU for each 5 million events, and 40 bytes of disk for each. Rows are remembered, so
memory is expected to grow until everybody has met everybody whom there is to meet and the cache of rows is full, and to
stay as it is then: what each million adds late in a long run tells whether it does.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from engines.manifest import read_manifest
from engines.prior import PriorModel
from features.engine import warm_up
from replay.offline import score
from replay.recording import Record, Recording, Writer
from replay.simulate import Traffic, TrafficError, simulate
from replay.simulate.recorded import records
from scorer import garbage
from scorer.service import REFERENCE_MODEL
from tests.benchmarks.arguments import from_one

MILLION = 1_000_000


class Watch:
    """Notes what the process has resident each time that another million is done."""

    def __init__(self, name: str) -> None:
        self.noted: list[float] = []
        self._name = name
        self._done = 0
        self._process = psutil.Process()

    def advance(self, n: int) -> None:
        """Note that n more are done."""
        self._done += n
        while len(self.noted) < self._done // MILLION:
            self.noted.append(self._process.memory_info().rss / MILLION)
            print(f"{self._name} {len(self.noted):>4} million events: {self.noted[-1]:,.0f} MB", flush=True)

    def slope(self) -> float:
        """MB a million events, over the second half of the run."""
        half = self.noted[len(self.noted) // 2 :]
        return (half[-1] - half[0]) / max(len(half) - 1, 1)


def main() -> None:
    """Make traffic, score it, and tell how memory went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=25 * MILLION)
    parser.add_argument("--rate", type=from_one, default=2_000, help="events a second")
    parser.add_argument("--viewers", type=int, default=100_000, help="more than the cache holds; 0: ever new ones")
    parser.add_argument("--rooms", type=int, default=50, help="streamers")
    options = parser.parse_args()
    if options.events < 4 * MILLION:
        parser.error("--events must be 4,000,000 or more: what a million adds takes two of them in the second half")
    try:
        traffic = Traffic(
            rate=options.rate,
            duration_s=options.events / options.rate,
            viewers=options.viewers,
            rooms=options.rooms,
            diurnal=1,
        )
    except TrafficError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traffic.parquet"
        simulating = Watch("simulate")
        with Writer(path, source="simulated") as writer:
            for batch in made(traffic):
                writer.write(batch)
                simulating.advance(len(batch))
        warm_up()
        garbage.take_over()
        scoring = Watch("score")
        model = PriorModel(read_manifest(REFERENCE_MODEL))
        with Recording(path) as recording:
            asyncio.run(score(recording, model, Path(folder) / "scores.parquet", advance=scoring.advance))
    print(f"{traffic.population:,} viewers; MB a million events in the second half of each run: ", end="")
    print(f"simulate {simulating.slope():.2f}, score {scoring.slope():.2f}")


def made(traffic: Traffic) -> Iterator[list[Record]]:
    """Give the traffic, a second at a time."""
    for moment in simulate(traffic):
        yield records(moment, traffic)


if __name__ == "__main__":
    main()
