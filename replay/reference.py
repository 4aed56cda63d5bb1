"""The reference model, made anew: simulate traffic, compute features, label, train, write the model folder.

`make model` runs it. Equal settings give an equal training set, and on one machine the same model to the byte.
The traffic comes from several worlds, small and large, one after another, each with viewers and streamers of its own.
Who spends much is so rare that one small world's tips are those of a few people; every hour of the day is to be seen in
training; and each world begins with nothing known about anybody, as a service does, so that such beginnings are in what
the model is trained on, calibrated on and judged by.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import msgspec

from engines.model import ModelError
from replay.dataset import Sampling, Written, write_dataset
from replay.recording import Writer
from replay.simulate import Traffic, simulate
from replay.simulate.recorded import records

FOLDER = Path("engines/models/reference")
_NEGATIVES = 0.05
_TIPPERS = 1.0
_DAY_MS = 86_400_000
_SIZES = (0.25, 0.5, 1.0, 2.25)  # of one world after another, in times of the rate; 1 on average
_STRIDE = 0.618  # of a day: the hours of any few worlds in a row lie apart


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the model; 0 if it went well, 2 with a sentence if not."""
    parser = argparse.ArgumentParser(prog="python -m replay.reference", description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, help="model folder to write (%(default)s)")
    parser.add_argument("--shards", type=Path, help="where to keep the training set (default: a temporary folder)")
    parser.add_argument("--worlds", type=int, default=16, help="populations to simulate (%(default)s)")
    parser.add_argument("--hours", type=float, default=1.75, help="traffic time to simulate of each (%(default)s)")
    parser.add_argument("--rate", type=float, default=150.0, help="events a second, on average (%(default)s)")
    parser.add_argument("--seed", type=int, default=11, help="seed of the first world and the training (%(default)s)")
    parser.add_argument("--version", default="1", help="version in the manifest (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _make(options, options.shards or Path(folder))
    except ModelError as error:
        print(f"reference model: {error}", file=sys.stderr)
        return 2
    return 0


def _make(options: argparse.Namespace, shards: Path) -> None:
    try:
        from engines.train.log import PAGE_FILE
        from engines.train.recipe import Recipe
        from engines.train.run import Label, train
    except ModuleNotFoundError as error:
        raise ModelError(f"Training needs {error.name}: pip install 'tipstream[train]'") from error
    settings = Traffic(rate=options.rate, duration_s=options.hours * 3600, truth=True)
    worlds = [
        msgspec.structs.replace(
            settings,
            seed=options.seed + number,
            rate=options.rate * _SIZES[number % len(_SIZES)],
            start_ms=settings.start_ms + int((number + number * _STRIDE % 1) * _DAY_MS),
        )
        for number in range(options.worlds)
    ]
    source = (
        f"simulated traffic, seeds {worlds[0].seed} to {worlds[-1].seed}: {options.worlds} x {options.hours:g} h at "
        f"{options.rate:g} events/s on average; {Sampling(_NEGATIVES, options.seed, _TIPPERS)}"
    )
    print(f"Simulating {options.worlds} x {options.hours:g} h at {options.rate:g} events/s. This takes some minutes.")
    # Fresh processes: a fork would copy locks that this one's threads hold.
    with ProcessPoolExecutor(min(options.worlds, os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
        for world, written in zip(worlds, pool.map(partial(_write, shards, source), worlds), strict=True):
            print(f"seed {world.seed}: {written.events:,} events, {written.rows:,} rows, {written.tips:,} with a tip")
    label = Label("tip-intent-reference", options.version, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    manifest = train(shards, options.out, label, Recipe(seed=options.seed), print)
    (options.out / PAGE_FILE).unlink()  # the figures are in the card and the log: no place for a page's style
    for name, value in manifest.metrics.items():
        print(f"{name:>26} {value:.5f}")


def _write(shards: Path, source: str, world: Traffic) -> Written:
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "world.parquet"
        with Writer(recording, source="simulated") as writer:
            for moment in simulate(world):
                writer.write(records(moment, world))
        sampling = Sampling(_NEGATIVES, world.seed, _TIPPERS)
        return write_dataset(recording, shards, source=source, sampling=sampling, part=f"{world.seed}-")


if __name__ == "__main__":
    sys.exit(main())
