"""The whole service on a large machine: several workers, many partitions, and pass-through loops in the same session.

python -m tests.benchmarks.fleet [--rate 40000] [--workers 4] [--partitions 16] [--seconds 30] [--rounds 1]
                                 [--set model.backend=tensorrt ...] [--versus "kafka.fetch_min_bytes=1 ..."]
                                 [--swap COMMAND] [--skip-floor]

Starts its own Kafka and Redis. Latency is from the time that an event was meant to leave to its score's arrival at an
independent reader. `--set` adds a setting of the scorer (TOML after the equals sign; text needs no quotes), `--versus`
measures the scorer once more, in turns with the first, with these settings on top. `--swap` runs a command in the
middle of the scorer's time, twice: forth and back, `{n}` being 1 and 2; the figures then tell the longest silence at
the reader after it, and the longest of the time before. `tests.benchmarks.swap --prepare` makes a repository for that.
Prints as it goes on; all figures go to FOLDER/fleet.json.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import uvloop
from aiokafka import AIOKafkaProducer

from engines.commands.numbers import positive
from scorer.config import load as load_config
from scorer.embedded.child import Child, ChildError
from scorer.layers import ConfigError
from scorer.ports import free_port
from tests.benchmarks.arguments import add_load, check_load, command, writable
from tests.benchmarks.measure import change, cpu_seconds, host, machine_seconds, scrape
from tests.benchmarks.reader import Arrivals, Reader
from tests.benchmarks.traffic import PROBE, template, zipf
from tests.benchmarks.trial import CONFIG, LOOK_S, Figures, own_view, settled
from tests.services import kafka, redis
from tests.services.kafka import Broker
from tests.services.redis import Redis
from tests.services.topics import create_topic

# heap and collector as Kafka's own start script sets them, where there is memory and cores for it
JVM: Final = ("-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35")
FLOOR: Final = "pass-through"
AWAKE_S: Final = 180.0  # a first start may compile the kernel and load engines
SWAP_WINDOW_S: Final = 4.0  # before and after each swap


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is asked."""

    rate: float
    seconds: float
    warmup: float
    workers: int
    partitions: int
    generators: int
    source: str
    settings: tuple[str, ...]
    swap: str


class Place(NamedTuple):
    """Where everything is."""

    kafka: Broker
    redis: Redis
    folder: Path


class Moment(NamedTuple):
    """Clocks and counters at one time."""

    ns: int
    scores: int
    cpu: dict[str, float]
    metrics: dict[str, float]


class Run:
    """One subject under load; topics, database and group are its own."""

    def __init__(self, place: Place, options: Options, name: str, database: int) -> None:
        """`name` is pass-through for the loops, anything else for the scorer."""
        self._place, self._options, self._database = place, options, database
        self._is_scorer = name != FLOOR
        self._folder = place.folder / f"run-{database}"
        self._log = self._folder / "process.log"
        self._events = self._scores = ""
        self._port = free_port()

    async def measure(self) -> Figures:
        """Figures of what was meant to leave after the warm-up."""
        config = await self._prepare()
        options = self._options
        async with (
            Reader(self._place.kafka.bootstrap, self._scores, options.partitions) as reader,
            AsyncExitStack() as up,
        ):
            subjects = [await up.enter_async_context(running(argv, self._log)) for argv in self._commands(config)]
            await self._wake(subjects, reader)
            loads = [
                await up.enter_async_context(running(argv, self._folder / f"load-{i}.log", announces=True))
                for i, argv in enumerate(self._load())
            ]
            sent = [asyncio.create_task(asyncio.to_thread(load.ready, options.seconds + 120)) for load in loads]
            await settled(reader, 1)
            await asyncio.sleep(options.warmup)
            before = await self._look(subjects, reader)
            await asyncio.sleep(LOOK_S)
            start = time.time_ns()
            swaps = await self._swaps() if options.swap and self._is_scorer else []
            await asyncio.sleep(
                max(0.0, options.seconds - options.warmup - 2 * LOOK_S - 1 - (time.time_ns() - start) / 1e9)
            )
            end = time.time_ns()
            await asyncio.sleep(LOOK_S)
            after = await self._look(subjects, reader)
            offered = [await each for each in sent]
            scored = sum(each["scored"] for each in offered)
            await settled(reader, scored)
            arrivals = reader.arrivals
        elapsed = (after.ns - before.ns) / 1e9
        used = {who: (after.cpu[who] - before.cpu[who]) / elapsed for who in after.cpu}
        steady = arrivals.between(start, end)
        return {
            **steady.latency_ms(),
            "p99_by_second_ms": steady.p99_by_second_ms(),
            "scores_per_s": round((after.scores - before.scores) / elapsed),
            "lost": scored - reader.count,
            "generator_late_ms": max(each["lag_ms_p99"] for each in offered),
            "cpu_us_per_event": used["subject"] * elapsed / max(1, after.scores - before.scores) * 1e6,
            "cores": used,
            "own": own_view(change(before.metrics, after.metrics)) if after.metrics else {},
            "swaps": [silence(arrivals, began, start) for began in swaps],
        }

    async def _prepare(self) -> Path:
        bootstrap, partitions = self._place.kafka.bootstrap, self._options.partitions
        self._events, self._scores, dlq = [
            await create_topic(bootstrap, name, partitions) for name in ("events", "scores", "dlq")
        ]
        self._folder.mkdir()
        config = self._folder / "tipstream.toml"
        text = CONFIG.format(
            bootstrap=bootstrap,
            group=self._events,
            events=self._events,
            scores=self._scores,
            dlq=dlq,
            redis=f"redis://127.0.0.1:{self._place.redis.port}/{self._database}",
            port=self._port,
        )
        config.write_text(with_settings(text, self._options.settings))
        return config

    def _commands(self, config: Path) -> list[list[str]]:
        workers, serve = self._options.workers, ["serve", "--config", str(config)]
        if self._is_scorer:
            return [[sys.executable, "-m", "scorer.cli", *serve, "--workers", str(workers)]]
        return [[sys.executable, "-m", "tests.benchmarks.passthrough", *serve]] * workers

    def _load(self) -> list[list[str]]:
        options = self._options
        where = ["--bootstrap", self._place.kafka.bootstrap, "--topic", self._events, "--source", options.source]
        rate = ["--rate", str(options.rate / options.generators), "--seconds", str(options.seconds)]
        start = [sys.executable, "-m", "tests.benchmarks.load", *where, *rate]
        return [[*start, "--seed", str(seed)] for seed in range(1, options.generators + 1)]

    async def _wake(self, subjects: list[Child], reader: Reader) -> None:
        """Probe every partition until a score came back, then give the group time to settle."""
        probe = template(next(zipf(seed=0)))
        until = time.monotonic() + AWAKE_S
        async with AIOKafkaProducer(bootstrap_servers=self._place.kafka.bootstrap) as producer:
            for partition in itertools.cycle(range(self._options.partitions)):
                if reader.awake.is_set():
                    break
                if time.monotonic() > until or not all(subject.running for subject in subjects):
                    raise subjects[0].failed("answered no event")
                stamped = probe.stamped(time.time_ns(), PROBE)
                await producer.send_and_wait(self._events, stamped, key=probe.key, partition=partition)
                await asyncio.sleep(0.1)
        await asyncio.sleep(5.0)  # the members that are not the first

    async def _look(self, subjects: list[Child], reader: Reader) -> Moment:
        now, scores = time.time_ns(), reader.count
        services = {"kafka": self._place.kafka.child, "redis": self._place.redis.child}
        cpu = {name: cpu_seconds(child.pid) for name, child in services.items() if child}
        cpu["subject"] = sum(cpu_seconds(child.pid) for child in subjects)
        cpu["others"] = machine_seconds() - cpu_seconds(os.getpid())
        return Moment(now, scores, cpu, await asyncio.to_thread(scrape, f"http://127.0.0.1:{self._port}/metrics"))

    async def _swaps(self) -> list[int]:
        """Run the command forth and back, each with time around it; when it began, ns."""
        began = []
        for n in (1, 2):
            await asyncio.sleep(SWAP_WINDOW_S)
            began.append(time.time_ns())
            words = shlex.split(self._options.swap.replace("{n}", str(n)))
            command = [sys.executable if word == "python" else word for word in words]
            done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise ChildError(f"`{shlex.join(command)}` failed: {(done.stdout + done.stderr).strip()[-1000:]}")
            await asyncio.sleep(SWAP_WINDOW_S)
        return began


@asynccontextmanager
async def running(argv: list[str], log: Path, *, announces: bool = False) -> AsyncIterator[Child]:
    """A child that is gone when the block ends."""
    child = Child(argv, log=log, announces=announces)
    try:
        yield child
    finally:
        await asyncio.to_thread(child.stop, 20.0)


def silence(arrivals: Arrivals, began_ns: int, steady_ns: int) -> Figures:
    """Longest time without a score from a swap's begin on, and the same of the equally long time before it."""
    span = int(SWAP_WINDOW_S * 1e9)

    def longest(start: int, end: int) -> float:
        inside = np.sort(arrivals.arrived[(arrivals.arrived >= start) & (arrivals.arrived < end)])
        return round(float(np.diff(inside, prepend=start, append=end).max()) / 1e6, 2)

    first = arrivals.between(began_ns, began_ns + span)
    return {
        "longest_gap_ms": longest(began_ns, began_ns + span),
        "longest_gap_before_ms": longest(max(steady_ns, began_ns - span), began_ns),
        **first.latency_ms(),
    }


def with_settings(text: str, settings: tuple[str, ...]) -> str:
    """Add `section.key=value` to a configuration, which has each section at most once."""
    for setting in settings:
        name, _, value = setting.partition("=")
        section, _, key = name.partition(".")
        plain = value in ("true", "false") or value[:1] in "[\"'" or value.replace(".", "", 1).isdecimal()
        line = f"{key} = {value if plain else msgspec.json.encode(value).decode()}\n"
        head = f"[{section}]\n"
        text = text.replace(head, head + line) if head in text else f"{text}{head}{line}"
    return text


def setting(text: str) -> str:
    """Check that a setting names its section."""
    if not re.fullmatch(r"\w+\.\w+=.*", text):
        raise argparse.ArgumentTypeError(f"{text!r} must read section.key=value")
    return text


def settings(text: str) -> list[str]:
    """Take a text apart into settings."""
    return [setting(word) for word in shlex.split(text)]


def check(settings: tuple[str, ...], folder: Path) -> None:
    """Read settings as the scorer will; raises ConfigError for what it would refuse."""
    config = folder / "asked.toml"
    config.write_text(with_settings("", settings))
    load_config(config)


def typical(rounds: list[Figures], name: str) -> Any:
    """Median over the rounds."""
    return float(np.median([figures[name] for figures in rounds]))


async def measure(place: Place, subjects: Mapping[str, Options], rounds: int, out: Path) -> None:
    """Run every subject in turn and write down what came after each."""
    options = next(iter(subjects.values()))
    report: Figures = {"host": host(), "load": msgspec.to_builtins(options), "subjects": {}}
    databases = itertools.count(1)
    warm = msgspec.structs.replace(options, seconds=12.0, warmup=2.0, swap="")
    say("warming the broker")  # its compiler would slow whoever comes first
    await Run(place, warm, FLOOR, next(databases)).measure()
    for _ in range(rounds):
        for name, options in subjects.items():
            figures = await Run(place, options, name, next(databases)).measure()
            say(f"{name}: {figures}")
            report["subjects"].setdefault(name, []).append(figures)
            (out / "fleet.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    for name, found in report["subjects"].items():
        p50, p99, cpu = (typical(found, figure) for figure in ("p50_ms", "p99_ms", "cpu_us_per_event"))
        say(f"{name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, {cpu:.1f} us of CPU an event, lost {found[-1]['lost']}")


def say(line: str) -> None:
    """Print at once: a run that is cut short still shows how far it came."""
    print(line, flush=True)


def main() -> int:
    """Read the command line, measure, print, save; 1 when a service is missing here."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.fleet", description=(__doc__ or "").split("\n")[0]
    )
    add_load(parser, rate=40_000.0, warmup=10.0, source="tests.benchmarks.traffic:crowd")
    parser.add_argument("--workers", type=positive, default=4, help="members of the group (%(default)s)")
    parser.add_argument("--partitions", type=positive, default=16, help="of every topic (%(default)s)")
    parser.add_argument("--generators", type=positive, default=2, help="processes that send (%(default)s)")
    parser.add_argument("--rounds", type=positive, default=1, help="the last lines are medians")
    parser.add_argument(
        "--set", action="append", default=[], type=setting, metavar="SECTION.KEY=VALUE", help="of the scorer"
    )
    parser.add_argument(
        "--versus", action="append", default=[], type=settings, metavar="SETTINGS", help="more of them: another subject"
    )
    parser.add_argument("--swap", type=command, metavar="COMMAND", help="what changes the serving engine")
    parser.add_argument("--skip-floor", action="store_true", help="measure the scorer alone")
    parser.add_argument("--out", type=writable, default=os.environ.get("OUT", "var"), help="for fleet.json")
    asked = parser.parse_args()
    check_load(parser, asked, 5 * SWAP_WINDOW_S if asked.swap else 2 * LOOK_S + 2)
    if asked.rate < asked.generators:
        parser.error("--rate must be as large as --generators or larger: each sends one event a second or more")
    names = [name for name in Options.__struct_fields__ if name not in ("settings", "swap")]
    options = Options(
        settings=tuple(asked.set), swap=asked.swap or "", **{name: getattr(asked, name) for name in names}
    )
    subjects = {} if asked.skip_floor else {FLOOR: options}
    subjects["scorer"] = options
    for more in asked.versus:
        subjects[f"scorer, {' '.join(more)}"] = msgspec.structs.replace(options, settings=(*asked.set, *more))
    for reason in filter(None, (kafka.missing(), redis.missing())):
        say(f"Nothing was measured: {reason}.")
        return 1
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tipstream-bench-") as name:
        place = Place(Broker(Path(name) / "kafka", jvm=JVM), Redis(Path(name)), Path(name))
        try:
            for each in subjects.values():
                check(each.settings, place.folder)
            place.kafka.start()
            place.redis.start()
            uvloop.run(measure(place, subjects, asked.rounds, asked.out))
        except ConfigError as error:
            parser.error(str(error))
        except ChildError as error:
            raise SystemExit(str(error)) from None
        finally:
            place.kafka.stop()
            place.redis.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
