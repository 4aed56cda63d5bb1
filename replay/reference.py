"""The reference model, made anew: simulate traffic, compute features, label, train, write the model folder.

`make model` runs it. Equal settings give an equal training set, and on one machine the same model to the byte.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.progress import Progress

from engines.model import ModelError
from replay.dataset import Sampling, write_dataset
from replay.simulate import Moment, Traffic, simulate

FOLDER = Path("engines/models/reference")
_RATE, _HOURS = 100.0, 6.0
_SKIP = 1 / 6  # of the traffic, at the start: it fills windows and histories
_NEGATIVES = 0.15


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the model; 0 if it went well, 2 with a sentence if not."""
    parser = argparse.ArgumentParser(prog="python -m replay.reference", description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, help="model folder to write (%(default)s)")
    parser.add_argument("--shards", type=Path, help="where to keep the training set (default: a temporary folder)")
    parser.add_argument("--hours", type=float, default=_HOURS, help="traffic to simulate (%(default)s)")
    parser.add_argument("--rate", type=float, default=_RATE, help="events a second of it (%(default)s)")
    parser.add_argument("--seed", type=int, default=11, help="seed of the traffic and of the training (%(default)s)")
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
        from engines.train.recipe import Recipe
        from engines.train.run import Label, train
    except ModuleNotFoundError as error:
        raise ModelError(f"Training needs {error.name}: pip install 'tipstream[train]'") from error
    traffic = Traffic(seed=options.seed, rate=options.rate, duration_s=options.hours * 3600, truth=True)
    source = (
        f"simulated traffic, seed {options.seed}: {options.hours:g} h at {options.rate:g} events/s, the first "
        f"{_SKIP * options.hours:.2g} h for the features alone, {_NEGATIVES:.0%} of the negatives (weighted back)"
    )
    sampling = Sampling(_NEGATIVES, round(_SKIP * options.hours * 3_600_000), options.seed)
    written = write_dataset(_shown(traffic), shards, source=source, sampling=sampling)
    print(f"{written.events:,} events gave {written.rows:,} rows, {written.tips:,} with a tip")
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    label = Label("tip-intent-reference", options.version, created)
    manifest = train(shards, options.out, label, Recipe(seed=options.seed), print)
    for name, value in manifest.metrics.items():
        print(f"{name:>26} {value:.5f}")


def _shown(traffic: Traffic) -> Iterator[Moment]:
    """Yield the traffic and show how far it is."""
    with Progress() as progress:
        task = progress.add_task("simulating", total=traffic.duration_s)
        for moment in simulate(traffic):
            progress.update(task, completed=(int(moment.arrive_ms[-1]) - traffic.start_ms) / 1000)
            yield moment


if __name__ == "__main__":
    sys.exit(main())
