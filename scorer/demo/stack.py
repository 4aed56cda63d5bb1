"""What the demo runs: a broker, a Redis, the scorer and a player of traffic, each through its own command."""

from __future__ import annotations

import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from scorer.config import Batching, Config, Kafka, Redis, Server
from scorer.demo.gauges import Reading, read
from scorer.embedded.child import Child
from scorer.ports import free_port

PARTITIONS: Final = 2
SPEED: Final = 60
"""Times faster than life: ten minutes are over in ten seconds."""
RATE: Final = 33
"""Events per second of traffic time, on average."""
SEED: Final = 6
_START: Final = "2025-01-01T19:00Z"  # the same evening each time; long past, so that no event is ahead of its record
_MOST_S: Final = 120  # of traffic are simulated, and repeated in a demo that lasts longer
_LINGER_MS: Final = 15  # the mock broker hands out one batch a fetch: lone records would wait for as many fetches
_LOOK_S: Final = 0.1
_READY_S: Final = 180.0  # compiling the kernel on a slow, busy machine

Step = Callable[[str], AbstractContextManager[None]]
"""Shows a sentence while something goes on."""


class Stopped(Exception):
    """Somebody asked to stop while it started."""


class Stack:
    """The four processes. Start them from the main thread: none of them outlives it."""

    def __init__(self, folder: Path) -> None:
        """Nothing runs yet; `folder` takes the configuration and the logs."""
        self.config = Config()
        self._folder = folder
        self._traffic = folder / "traffic.parquet"
        self._children: dict[str, Child] = {}

    def start(self, seconds: int, step: Step, stopped: Callable[[], bool]) -> None:
        """Start broker, Redis and scorer, and have `seconds` of traffic ready.

        Raises ChildError in words if one fails, and Stopped soon after `stopped` says so:
        at the latest when what is being started is up.
        The traffic is simulated beforehand, while the kernel compiles: while it plays, the machine is the scorer's.
        """
        module = [sys.executable, "-m"]
        wanted = Kafka()
        topics = (wanted.events_topic, wanted.scores_topic, wanted.dlq_topic)
        with step("Kafka: a broker in memory, librdkafka's mock cluster"):
            names = ",".join(f"{topic}:{PARTITIONS}" for topic in topics)
            bootstrap = self._announced("kafka", [*module, "scorer.embedded", "kafka", "--topics", names])
        _unless(stopped)
        with step("Redis: a server with files of its own"):
            url = self._announced("redis", [*module, "scorer.embedded", "redis"])
        _unless(stopped)
        # The mock broker sleeps through the whole wait of a fetch, whatever arrives meanwhile.
        kafka = Kafka(bootstrap=bootstrap, fetch_max_wait_ms=2)
        # Late on a busy machine is still worth a look: the share within the budget tells of it.
        self.config = Config(
            kafka=kafka,
            redis=Redis(url=url),
            batching=Batching(publish_late=True, in_flight=4),
            server=Server(port=free_port()),
        )
        self._run("scorer", [*module, "scorer.cli", "serve", "--config", str(self._written())])
        traffic = ["--rate", str(RATE), "--duration", str(min(seconds, _MOST_S) * SPEED), "--start", _START]
        simulator = self._run(
            "simulator", [*module, "replay.cli", "simulate", str(self._traffic), "--seed", str(SEED), *traffic]
        )
        with step("Scorer: the first time it compiles its feature kernel, most of a minute"):
            self._wait_for_scorer(stopped)
        with step("Traffic: an evening of a small platform, simulated"):
            self._wait_for(simulator, stopped)

    def play(self) -> None:
        """Start the traffic, over and over."""
        play = [sys.executable, "-m", "replay.cli", "play", str(self._traffic)]
        pace = ["--speed", str(SPEED), "--stamp", "now", "--loop", "0", "--linger", str(_LINGER_MS)]
        self._run("player", [*play, *pace, "--bootstrap", self.config.kafka.bootstrap])

    def reading(self) -> Reading:
        """Return what the scorer says of itself now; blocks for milliseconds. Raises OSError if it does not answer."""
        url = f"http://{self.config.server.host}:{self.config.server.port}/metrics"
        with urllib.request.urlopen(url, timeout=2) as page:
            return read(page.read().decode(), time.monotonic())

    def check(self) -> None:
        """Raise ChildError in words if one of them has ended."""
        for name, child in self._children.items():
            if not child.running and (name != "simulator" or child.process.returncode):
                raise child.failed("ended")

    def stop(self) -> None:
        """End all of them, the last one first: what was played is scored before the scorer goes. Harmless to repeat."""
        for name in list(reversed(self._children)):
            self._children[name].stop()
            del self._children[name]

    def _announced(self, name: str, command: list[str]) -> str:
        return str(self._run(name, command, announces=True).ready()["address"])

    def _run(self, name: str, command: list[str], *, announces: bool = False) -> Child:
        child = Child(command, log=self._folder / f"{name}.log", announces=announces)
        self._children[name] = child
        return child

    def _wait_for_scorer(self, stopped: Callable[[], bool]) -> None:
        """Wait until the scorer owns every partition."""
        deadline = time.monotonic() + _READY_S
        while not self._owns_all():
            self.check()
            _unless(stopped)
            if time.monotonic() > deadline:
                raise self._children["scorer"].failed(f"was not ready within {_READY_S:.0f} s")
            time.sleep(_LOOK_S)

    def _owns_all(self) -> bool:
        try:
            return self.reading().partitions == PARTITIONS
        except OSError:  # its server does not listen yet
            return False

    def _wait_for(self, simulator: Child, stopped: Callable[[], bool]) -> None:
        """Wait until all traffic is made."""
        while simulator.running:
            self.check()
            _unless(stopped)
            time.sleep(_LOOK_S)
        self.check()
        del self._children["simulator"]

    def _written(self) -> Path:
        path, config = self._folder / "tipstream.toml", self.config
        path.write_text(
            f'[kafka]\nbootstrap = "{config.kafka.bootstrap}"\nfetch_max_wait_ms = {config.kafka.fetch_max_wait_ms}\n'
            f'[redis]\nurl = "{config.redis.url}"\n'
            f"[batching]\npublish_late = true\nin_flight = {config.batching.in_flight}\n"
            f"[server]\nport = {config.server.port}\n"
        )
        return path


def _unless(stopped: Callable[[], bool]) -> None:
    if stopped():
        raise Stopped
