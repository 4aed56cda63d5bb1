"""The command that makes training sets: `dataset`."""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from engines.commands.numbers import positive, whole
from replay.dataset import Map, Sampling, write_dataset
from replay.progress import bar
from replay.workers import shared_out

_ABOUT: Final = """Make a training set of a recording: features and history as of each event, and whether the viewer
tipped in the room within 60 and 600 s, strictly after it, and how much. Features come from the service's own pipeline;
events whose 600 s the recording does not cover are left out."""
_EXAMPLES: Final = """examples:
  tipstream-replay dataset week.parquet var/dataset                         every event with a viewer
  tipstream-replay dataset week.parquet var/dataset --negatives 0.05        all that led to a tip, 5 % of the others
  tipstream-replay dataset week.parquet var/dataset --negatives 0.05 --tippers 1    and all of who tipped before
  tipstream-replay dataset may.parquet var/may --after april.parquet        with what april told about everybody
  tipstream-replay dataset week.parquet var/dataset --workers 4             four processes of this machine
  tipstream-replay dataset /share/week.parquet /share/set --scheduler tcp://dask:8786
  tipstream-engine train var/dataset --out var/models/mine                  what it is for

A kept event without a tip stands for 1 / share of them: its column `weight` says so, and training counts it so many
times. Work is shared out by partition: a recording of a topic has them; one that was never on Kafka gets --partitions.
What is in the set does not depend on who made it. Dask needs tipstream[cluster], and the same paths everywhere.
"""


def add_commands(commands: Any) -> None:
    """Add it to the parser's commands."""
    made = commands.add_parser(
        "dataset", help="make a training set", description=_ABOUT, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.set_defaults(run=_dataset)
    made.add_argument("recording", type=Path, metavar="RECORDING")
    made.add_argument("folder", type=Path, metavar="FOLDER", help="for the set: dataset.json and shards in Parquet")
    made.add_argument(
        "--after", type=Path, nargs="+", default=[], metavar="FILE", help="recordings that came before, in order"
    )
    made.add_argument(
        "--negatives", type=float, default=1.0, metavar="P", help="share of events without a tip to keep (default: 1)"
    )
    made.add_argument(
        "--tippers",
        type=float,
        metavar="P",
        help="the same for viewers who tipped before (default: that of --negatives)",
    )
    made.add_argument("--seed", type=whole, default=1, metavar="N", help="which of them (default: 1)")
    made.add_argument("--partitions", type=positive, default=1, metavar="N", help="for records without (default: 1)")
    who = made.add_mutually_exclusive_group()
    who.add_argument("--workers", type=positive, metavar="N", help="share out over processes of this machine")
    who.add_argument("--scheduler", metavar="tcp://HOST:PORT", help="share out over a Dask cluster")


def _dataset(arguments: argparse.Namespace) -> None:
    began = time.perf_counter()
    with ExitStack() as stack:
        map_: Map | None = None
        if arguments.workers or arguments.scheduler:
            map_ = stack.enter_context(shared_out(workers=arguments.workers, scheduler=arguments.scheduler))
        written = write_dataset(
            arguments.recording,
            arguments.folder,
            after=arguments.after,
            sampling=Sampling(arguments.negatives, arguments.seed, arguments.tippers),
            partitions=arguments.partitions,
            map_=map_,
            advance=stack.enter_context(bar("dataset", None)),
        )
    seconds = time.perf_counter() - began
    print(
        f"{arguments.folder}: {written.rows:,} rows, {written.tips:,} with a tip within 600 s, "
        f"of {written.events:,} records in {seconds:.1f} s."
    )
