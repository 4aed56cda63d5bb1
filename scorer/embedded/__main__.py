"""Run one embedded service in the foreground until it is told to end or whoever started it is gone.

python -m scorer.embedded kafka --topics events:4,scores:4
python -m scorer.embedded redis [--folder FOLDER] [--port PORT]

Prints one line of JSON when it is ready, {"address": ...}, and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import orjson

from scorer.embedded.child import ChildError
from scorer.embedded.kafka import MockCluster, MockError
from scorer.embedded.redis import RedisServer

ORPHAN_CHECK_S: Final = 0.2


def main(arguments: list[str] | None = None) -> int:
    """Give the exit status: 0 when ended on request, 1 when the service could not start, 2 for a bad command line."""
    options = parse(arguments)
    parent, ended = os.getppid(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    service = embedded_kafka(options.topics) if options.service == "kafka" else embedded_redis(options)
    try:
        with service as address:
            print(orjson.dumps({"address": address}).decode(), flush=True)
            while os.getppid() == parent and not ended.wait(ORPHAN_CHECK_S):
                pass
    except (ChildError, MockError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m scorer.embedded", description=(__doc__ or "").partition("\n")[0])
    services = parser.add_subparsers(dest="service", required=True)
    kafka = services.add_parser("kafka", help="librdkafka's mock cluster, one broker, in memory")
    kafka.add_argument("--topics", type=topics, default={}, help="name:partitions,...")
    redis = services.add_parser("redis", help="a redis-server")
    redis.add_argument("--folder", type=Path, help="where its data stays (default: removed at the end)")
    redis.add_argument("--port", type=int, default=0, help="default: a free one")
    return parser.parse_args(arguments)


def topics(text: str) -> dict[str, int]:
    """Read `events:4,scores:4`."""
    try:
        return {name: int(count) for name, _, count in (item.partition(":") for item in text.split(","))}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not like events:4,scores:4") from None


@contextlib.contextmanager
def embedded_kafka(wanted: dict[str, int]) -> Iterator[str]:
    """Run the mock cluster; its bootstrap address."""
    with contextlib.closing(MockCluster(wanted)) as cluster:
        yield cluster.bootstrap


@contextlib.contextmanager
def embedded_redis(options: argparse.Namespace) -> Iterator[str]:
    """Run a redis-server, by default on files of its own that vanish with it; its URL."""
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tipstream-redis-")))
        folder.mkdir(parents=True, exist_ok=True)
        server = RedisServer(folder.resolve(), port=options.port)
        stack.callback(server.stop)
        server.start()
        yield server.url


if __name__ == "__main__":
    sys.exit(main())
