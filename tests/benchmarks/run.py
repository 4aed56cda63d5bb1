"""The figures table: the scorer against a pass-through loop, on the same services in the same session.

python -m tests.benchmarks.run [--rate 10000] [--seconds 30] [--backlog 300000] [--rounds 1]

Starts its own Kafka and Redis, prints the table, and saves every figure with CPU model and versions under
tests/benchmarks/results/. Give it an otherwise idle machine: broker, Redis, load and measured process share its cores.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import re
import statistics
import tempfile
from pathlib import Path
from typing import Final

import msgspec
import uvloop
from rich.console import Console

from engines.commands.numbers import positive
from scorer.embedded.child import ChildError
from tests.benchmarks.arguments import add_load, check_load, command
from tests.benchmarks.measure import host
from tests.benchmarks.table import render
from tests.benchmarks.trial import LOOK_S, Figures, Services, Subject, Trial
from tests.services import kafka, redis
from tests.services.kafka import STEADY, Broker
from tests.services.redis import Redis

RESULTS: Final = Path(__file__).parent / "results"
FLOOR: Final = "python -m tests.benchmarks.passthrough serve --config {config}"
WARM_S: Final = 30.0
SCORER: Final = "python -m scorer.cli serve --config {config}"


async def measure(options: argparse.Namespace, services: Services, console: Console) -> dict[str, Figures]:
    """Run every trial, round by round so that drifts of the machine touch both subjects alike."""
    subjects = [Subject("pass-through", options.floor)]
    if not options.floor_only:
        subjects.append(Subject("scorer", options.scorer))
    databases = itertools.count(1)
    found: dict[str, Figures] = {subject.name: {"steady": [], "drain": []} for subject in subjects}
    console.print(f"Warming the broker for {WARM_S:g} s")  # its compiler would slow whoever comes first
    await Trial(services, subjects[0], next(databases), options.source).steady(options.rate, WARM_S, WARM_S / 2)
    for _ in range(options.rounds):
        for subject in subjects:
            console.print(f"{subject.name}: {options.rate:,.0f} events/s for {options.seconds:g} s")
            trial = Trial(services, subject, next(databases), options.source)
            found[subject.name]["steady"].append(await trial.steady(options.rate, options.seconds, options.warmup))
            console.print(f"{subject.name}: backlog of {options.backlog:,}")
            trial = Trial(services, subject, next(databases), options.source)
            found[subject.name]["drain"].append(await trial.drain(options.backlog))
    return {name: {phase: typical(rounds) for phase, rounds in phases.items()} for name, phases in found.items()}


def typical(rounds: list[Figures]) -> Figures:
    """Give the median of every figure over the rounds."""
    merged: Figures = {}
    for name, value in rounds[0].items():
        values = [figures[name] for figures in rounds]
        if isinstance(value, dict):
            merged[name] = typical(values)
        else:
            numbers = [number for number in values if number is not None]
            merged[name] = statistics.median(numbers) if numbers else None
    return merged


def save(report: Figures) -> Path:
    """Write the report under a name of date and CPU."""
    cpu = re.sub(r"[^a-z0-9]+", "-", report["host"]["cpu"].lower()).strip("-")
    path = RESULTS / f"{report['date']}-{cpu}-{report['host']['cores']}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    return path


def main() -> int:
    """Read the command line, measure, print, save; 1 when a service is missing here."""
    options = parse()
    console = Console()
    for reason in filter(None, (kafka.missing(), redis.missing())):
        console.print(f"Nothing was measured: {reason}.")
        return 1
    with tempfile.TemporaryDirectory(prefix="tipstream-bench-") as name:
        folder = Path(name)
        services = Services(Broker(folder / "kafka", jvm=STEADY), Redis(folder), folder)
        try:
            services.kafka.start()
            services.redis.start()
            figures = uvloop.run(measure(options, services, console))
        except ChildError as error:
            raise SystemExit(str(error)) from None
        finally:
            services.kafka.stop()
            services.redis.stop()
    load = {name: getattr(options, name) for name in ("rate", "seconds", "warmup", "backlog", "rounds", "source")}
    report = {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "host": host(), "load": load, **figures}
    console.print(render(figures))
    console.print(f"Saved as {save(report).relative_to(Path.cwd())}" if not options.no_save else "Not saved.")
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.run", description=(__doc__ or "").split("\n")[0])
    add_load(parser, rate=10_000.0, warmup=8.0, source="tests.benchmarks.traffic:zipf")
    parser.add_argument("--backlog", type=positive, default=300_000, help="events to work off")
    parser.add_argument("--rounds", type=positive, default=1, help="the table shows medians")
    parser.add_argument(
        "--scorer", type=command, default=SCORER, help="command to measure; {config} is its configuration file"
    )
    parser.add_argument("--floor", type=command, default=FLOOR, help="command of the pass-through loop")
    parser.add_argument("--floor-only", action="store_true", help="measure the pass-through loop alone")
    parser.add_argument("--no-save", action="store_true", help="write no file under results/")
    options = parser.parse_args()
    check_load(parser, options, 2 * LOOK_S + 2)
    return options


if __name__ == "__main__":
    raise SystemExit(main())
