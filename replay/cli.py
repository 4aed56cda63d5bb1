"""`tipstream-replay`: make, record, play and score traffic, judge and explain scores, make training sets."""

from __future__ import annotations

import argparse
import asyncio
import math
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from engines.model import ModelError
from replay import judging, teaching
from replay import record as recorder
from replay.importers import twitch_tape
from replay.kafka import KafkaAccessError, Producer
from replay.play import FLAT_OUT, Plan, Played, play
from replay.progress import bar, progress
from replay.recording import Record, Recording, RecordingError, Writer
from replay.simulate import Traffic, TrafficError, simulate
from replay.simulate.recorded import records
from scorer import config as configuration
from scorer.config import ConfigError, Kafka

_SUCCESS: Final = 0
_FAILURE: Final = 1
_USAGE: Final = 2
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}

_ABOUT: Final = "Simulate, import, record and play live-stream traffic; score it; judge, compare and explain scores."
_EXAMPLES: Final = """examples:
  tipstream-replay simulate hour.parquet --rate 1000 --duration 1h     an hour of made-up traffic, 1,000 events/s
  tipstream-replay simulate --kafka localhost:9092 --speed 60          the same to Kafka, an hour in a minute
  tipstream-replay import --format twitch-tape IN.parquet OUT.parquet  other people's recordings
  tipstream-replay record yesterday.parquet --bootstrap broker:9092    what a topic holds; goes on if interrupted
  tipstream-replay play hour.parquet --bootstrap localhost:9092        to Kafka, with the recorded gaps
  tipstream-replay score hour.parquet --out scores.parquet             through the service's pipeline, no Kafka
  tipstream-replay report scores.parquet --recording hour.parquet      how well they foresaw the tips that followed
  tipstream-replay diff old.parquet new.parquet --html diff.html       what changed between two models or versions
  tipstream-replay explain EVENT_ID --events e.parquet --scores s.parquet   why an event got its score
  tipstream-replay dataset hour.parquet var/dataset                    to train a model on

`tipstream-replay COMMAND --help` explains each. TLS, SASL and the topic come from the scorer's configuration: a file
(--config) or variables such as TIPSTREAM_KAFKA__PROTOCOL=SASL_SSL.

exit status: 0 done; 1 Kafka refused or did not answer, or a score is not the published one; 2 could not be done, with a
sentence that says why
"""
_SIMULATE: Final = """Make up traffic after published statistics: viewers who come and go, chat, like, open the gift
panel, top up and tip, in rooms whose excitement spreads. Whether they tip follows from what they did, by rules that the
model may learn; --truth writes the true chance of a tip into a header, the ceiling for any model. Equal settings give
equal traffic."""
_SIMULATE_EXAMPLES: Final = """examples:
  tipstream-replay simulate small.parquet --rate 200 --duration 30m
  tipstream-replay simulate day.parquet --rate 2000 --duration 1d --truth --seed 7
  tipstream-replay simulate --kafka localhost:9092 --rate 50 --duration 1h --speed 60

Sent to Kafka, the traffic is timed so that its last event happens now, and each record carries the time at which it was
due as its Kafka timestamp. Into a file it starts at --start.
"""
_IMPORT: Final = """Turn recordings in other formats into recordings that `play` and the others read.

twitch-tape: recorded Twitch chat with cheers, subscriptions, gifted subscriptions and raids. Each row with a viewer
becomes one event of that viewer, whose header `row` has the row's number; rows of anonymous gifters and known bots are
left out."""
_IMPORT_EXAMPLES: Final = """example:
  tipstream-replay import --format twitch-tape valid.parquet valid-recording.parquet
"""
_PLAY: Final = """Send a recording to Kafka. Keys, values, headers and partitions are kept; records without a partition
(simulated, imported) get one by key, as Kafka's clients choose it. The schedule does not wait for Kafka: what is late
is told in the summary, and the load stays what was asked for."""
_PLAY_EXAMPLES: Final = """examples:
  tipstream-replay play day.parquet                              recorded gaps
  tipstream-replay play day.parquet --speed 10 --stamp now       ten times faster, timestamps for measuring latency
  tipstream-replay play day.parquet --speed max --rate-cap 5000  flat out, but at most 5,000 records/s
  tipstream-replay play day.parquet --shift-ids 4 --loop 0       four times the viewers and rooms, until Ctrl-C

Recorded timestamps may be older than the topic keeps: Kafka then deletes the records, and the scorer, which measures
its deadline from them, gives their scores up. `--stamp now` avoids both.
"""
_RECORD: Final = """Write what a topic holds, or a range of it, to a recording: keys, values, headers, partitions,
offsets and timestamps as they are. It reads outside any consumer group and commits nothing. Interrupted, it goes on
where it stopped when started again with the same file name."""
_RECORD_EXAMPLES: Final = """examples:
  tipstream-replay record all.parquet --bootstrap broker:9092
  tipstream-replay record evening.parquet --since 2025-06-01T18:00Z --until 2025-06-01T23:00Z
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 Kafka refused or a score is not the published one, 2 could not be done.

    Ctrl-C is 130.
    """
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int | None] = arguments.run
    status: int | None = _SUCCESS
    try:
        status = run(arguments)
    except (ConfigError, ModelError, RecordingError, TrafficError) as error:
        print(f"tipstream-replay: {error}", file=sys.stderr)
        sys.exit(_USAGE)
    except KafkaAccessError as error:
        print(f"tipstream-replay: {error}", file=sys.stderr)
        sys.exit(_FAILURE)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    sys.exit(status or _SUCCESS)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("tipstream-replay", description=_ABOUT, epilog=_EXAMPLES, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    made = commands.add_parser(
        "simulate", help="make up traffic", description=_SIMULATE, epilog=_SIMULATE_EXAMPLES, formatter_class=raw
    )
    made.set_defaults(run=_simulate)
    made.add_argument("out", type=Path, nargs="?", metavar="OUT.parquet", help="the recording to write")
    made.add_argument("--kafka", metavar="HOST:PORT", help="send to Kafka instead of a file")
    made.add_argument("--seed", type=int, default=1, metavar="N", help="another seed, other people (default: 1)")
    made.add_argument("--rate", type=float, default=1_000, metavar="R", help="events per second, mean (default: 1000)")
    made.add_argument("--duration", type=_seconds, default=3_600.0, metavar="T", help="90, 10m, 1h, 2d (default: 1h)")
    made.add_argument("--viewers", type=int, default=0, metavar="N", help="people (default: ten per one who watches)")
    made.add_argument("--rooms", type=int, default=0, metavar="N", help="streamers (default: one per 100 watching)")
    made.add_argument("--start", type=_moment, metavar="TIME", help="of the traffic, as 2025-01-01T15:00Z")
    made.add_argument("--late", type=float, default=0.03, metavar="P", help="share that arrives late (default: 0.03)")
    made.add_argument("--duplicates", type=float, default=0.01, metavar="P", help="share sent twice (default: 0.01)")
    made.add_argument("--diurnal", type=float, default=10, metavar="X", help="peak over trough (default: 10; 1: flat)")
    made.add_argument("--tips", type=float, default=1, metavar="X", help="multiplies the tipping (default: 1)")
    made.add_argument("--truth", action="store_true", help="tell each event's true chance of a tip in a header")
    made.add_argument("--speed", type=_speed, metavar="X", help="to Kafka: 1 (default), N times faster, or max")
    _add_kafka(made, bootstrap=False)

    brought = commands.add_parser(
        "import", help="turn other recordings into ours", description=_IMPORT, epilog=_IMPORT_EXAMPLES,
        formatter_class=raw,
    )  # fmt: skip
    brought.set_defaults(run=_import)
    brought.add_argument("--format", choices=["twitch-tape"], required=True, help="of the input")
    brought.add_argument("--enters", action="store_true", help="imply an enter before a viewer's first event in a room")
    brought.add_argument("source", type=Path, metavar="IN.parquet")
    brought.add_argument("out", type=Path, metavar="OUT.parquet")

    played = commands.add_parser(
        "play", help="send a recording to Kafka", description=_PLAY, epilog=_PLAY_EXAMPLES, formatter_class=raw
    )
    played.set_defaults(run=_play)
    played.add_argument("recording", type=Path, metavar="FILE")
    played.add_argument("--speed", type=_speed, default=1.0, metavar="X", help="1 (default), N times faster, or max")
    played.add_argument("--rate-cap", type=float, default=math.inf, metavar="R", help="most records per second")
    played.add_argument(
        "--loop", type=int, default=1, metavar="N", help="play N times, 0 for ever; ids and times go on"
    )
    played.add_argument("--shift-ids", type=int, default=1, metavar="K", help="K sets of viewers and rooms at once")
    played.add_argument("--rekey", action="store_true", help="choose partitions by key, not as recorded")
    played.add_argument(
        "--stamp", choices=["recorded", "now"], default="recorded", help="Kafka timestamp: recorded, or when it is due"
    )
    played.add_argument(
        "--linger", type=float, default=0, metavar="MS", help="collect records so long, as producers do (default: 0)"
    )
    _add_kafka(played)

    taken = commands.add_parser(
        "record", help="write a topic to a recording", description=_RECORD, epilog=_RECORD_EXAMPLES, formatter_class=raw
    )
    taken.set_defaults(run=_record)
    taken.add_argument("out", type=Path, metavar="OUT.parquet")
    taken.add_argument("--since", type=_moment, metavar="TIME", help="Kafka timestamp to begin with (default: all)")
    taken.add_argument("--until", type=_moment, metavar="TIME", help="Kafka timestamp to end before (default: now)")
    _add_kafka(taken)
    judging.add_commands(commands)
    teaching.add_commands(commands)
    return parser


def _add_kafka(parser: argparse.ArgumentParser, *, bootstrap: bool = True) -> None:
    if bootstrap:
        parser.add_argument("--bootstrap", metavar="HOST:PORT", help="brokers (default: of the configuration)")
    parser.add_argument("--topic", metavar="NAME", help="(default: of the configuration, live.events.v1)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the scorer's settings in TOML: [kafka] counts")


def _simulate(arguments: argparse.Namespace) -> None:
    if (arguments.out is None) == (arguments.kafka is None):
        raise ConfigError("Say where the traffic goes: a file OUT.parquet, or --kafka HOST:PORT.")
    idle = [name for name in ("speed", "topic", "config") if getattr(arguments, name) is not None]
    if idle and arguments.kafka is None:
        raise ConfigError(f"--{idle[0]} is for traffic that goes to Kafka, not to a file: leave it out.")
    speed: float = arguments.speed or 1.0
    traffic = Traffic(
        seed=arguments.seed,
        rate=arguments.rate,
        duration_s=arguments.duration,
        viewers=arguments.viewers,
        rooms=arguments.rooms,
        late_share=arguments.late,
        duplicate_share=arguments.duplicates,
        diurnal=arguments.diurnal,
        tips=arguments.tips,
        truth=arguments.truth,
    )
    if arguments.start is not None:
        traffic = msgspec.structs.replace(traffic, start_ms=arguments.start)
    elif arguments.kafka is not None:
        ahead_s = traffic.duration_s * (1 - 1 / speed)
        traffic = msgspec.structs.replace(traffic, start_ms=round((time.time() - max(ahead_s, 0)) * 1000))
    if arguments.kafka is not None:
        kafka = _kafka(arguments, arguments.kafka)
        plan = Plan(speed=speed, stamp="now")
        expected = round(traffic.rate * traffic.duration_s)
        _report(asyncio.run(_send(lambda: _traffic(traffic), kafka, plan, expected)), kafka.events_topic)
        return
    settings = msgspec.json.encode(traffic).decode()
    began = time.perf_counter()
    with (
        Writer(arguments.out, source="simulated", metadata={"traffic": settings}) as writer,
        bar("simulate", round(traffic.rate * traffic.duration_s)) as advance,
    ):
        for batch in _traffic(traffic):
            writer.write(batch)
            advance(len(batch))
    seconds = time.perf_counter() - began
    print(f"{arguments.out}: {writer.rows:,} events, {writer.rows / seconds:,.0f} made per second.")


def _traffic(traffic: Traffic) -> Iterator[list[Record]]:
    for moment in simulate(traffic):
        yield records(moment, traffic)


def _import(arguments: argparse.Namespace) -> None:
    began = time.perf_counter()
    rows = twitch_tape.rows(arguments.source)
    with bar("import", rows) as advance:
        result = twitch_tape.import_tape(arguments.source, arguments.out, enters=arguments.enters, advance=advance)
    print(
        f"{arguments.out}: {result.events:,} events from {result.rows:,} rows in {time.perf_counter() - began:.1f} s. "
        f"Left out: {result.anonymous:,} rows of anonymous viewers, {result.bots:,} of bots. "
        f"{result.repeated:,} gifted subscriptions repeat their batch and count once with it."
    )


def _play(arguments: argparse.Namespace) -> None:
    if arguments.loop < 0 or arguments.shift_ids < 1 or not arguments.rate_cap > 0:
        raise ConfigError("--loop is 0 or more, --shift-ids 1 or more, and --rate-cap above 0.")
    plan = Plan(
        arguments.speed, arguments.rate_cap, arguments.loop, arguments.shift_ids, arguments.stamp, arguments.rekey
    )
    kafka = _kafka(arguments, arguments.bootstrap)
    with Recording(arguments.recording) as recording:
        expected = recording.rows * plan.turns * plan.copies
        _report(asyncio.run(_send(recording.batches, kafka, plan, expected, arguments.linger)), kafka.events_topic)


def _record(arguments: argparse.Namespace) -> None:
    kafka = _kafka(arguments, arguments.bootstrap)
    with progress() as shown:
        task = shown.add_task("record", total=None)

        def report(now: recorder.Progress) -> None:
            shown.update(task, total=now.total, completed=now.done)

        n = asyncio.run(
            recorder.record(
                kafka, kafka.events_topic, arguments.out,
                since_ms=arguments.since, until_ms=arguments.until, report=report,
            )
        )  # fmt: skip
    print(f"{arguments.out}: {n:,} records of {kafka.events_topic}.")


async def _send(
    batches: Callable[[], Iterator[list[Record]]], kafka: Kafka, plan: Plan, expected: int, linger_ms: float = 0
) -> Played:
    async with Producer(kafka, kafka.events_topic, linger_ms=linger_ms) as producer:
        with bar("play", expected or None) as advance:
            return await play(batches, producer, plan, advance=advance)


def _report(played: Played, topic: str) -> None:
    rate = played.records / max(played.seconds, 1e-9)
    print(
        f"{topic}: {played.records:,} records acknowledged in {played.seconds:.1f} s, {rate:,.0f} per second.", end=" "
    )
    print(f"Late when handed over: p99 {played.late_p99_ms:.0f} ms, at most {played.late_max_ms:.0f} ms.")


def _kafka(arguments: argparse.Namespace, bootstrap: str | None) -> Kafka:
    kafka = configuration.load(arguments.config).kafka
    given = {"bootstrap": bootstrap, "events_topic": arguments.topic}
    return msgspec.structs.replace(kafka, **{name: value for name, value in given.items() if value is not None})


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration: write 90, 90s, 10m, 1h or 2d")
    return float(match[1]) * _UNITS[match[2]]


def _speed(text: str) -> float:
    if text == "max":
        return FLAT_OUT
    try:
        speed = float(text)
    except ValueError:
        speed = 0
    if not 0 < speed < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no speed: write 1, 10, 0.5 or max")
    return speed


def _moment(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 2025-01-01T15:00Z") from error
    ms = round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    if ms < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is before 1970, where nothing can be")
    return ms


if __name__ == "__main__":
    main()
