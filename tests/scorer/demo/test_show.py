"""The demo as a person runs it: to its end, until Ctrl-C, and killed; nothing stays behind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

pytestmark = pytest.mark.timeout(240)

Demo = subprocess.Popen[str]


@contextmanager
def demo(seconds: int) -> Iterator[Demo]:
    """Run it without a terminal."""
    command = [sys.executable, "-m", "scorer.cli", "demo", "--seconds", str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def family(process: Demo) -> list[psutil.Process]:
    """Everything that the demo has started."""
    return psutil.Process(process.pid).children(recursive=True)


def read_until(process: Demo, pattern: str) -> str:
    """Read lines until one matches; return it."""
    assert process.stdout is not None
    for line in process.stdout:
        if re.search(pattern, line):
            return line
    raise AssertionError(f"ended before it said {pattern!r}")


def rest(process: Demo) -> str:
    assert process.stdout is not None
    return " ".join(process.stdout.read().split())


def none_left(children: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(
        children, timeout=40
    )  # a scorer whose broker dies with it drains and closes against its time limits
    return not alive


def test_to_the_end() -> None:
    with demo(seconds=16) as process:
        read_until(process, r"[1-9][\d,]* events/s")  # the first line may come before the first event
        children = family(process)
        assert len(children) >= 5  # broker, Redis and its keeper, scorer, player
        said = rest(process)
        assert process.wait() == 0
        events = re.search(r"([\d,]+) events, each accounted for: ([\d,]+) scored", said)
        assert events is not None, said
        assert int(events[2].replace(",", "")) > 1_000
        assert re.search(r"(none|low|mid|high) [\d,]+ [\d.]+ % [\d.]+ %", said), "no score was judged"
        assert none_left(children)


def test_asked_to_stop() -> None:
    with demo(seconds=30) as process:
        read_until(process, r"[1-9][\d,]* events/s")  # the first line may come before the first event
        children = family(process)
        process.send_signal(signal.SIGINT)
        assert "each accounted for" in rest(process)
        assert process.wait() == 0
        assert none_left(children)


def test_asked_to_stop_while_it_starts() -> None:
    with demo(seconds=30) as process:
        read_until(process, r"Scorer")
        children = family(process)
        process.send_signal(signal.SIGTERM)
        assert "Ended before there was anything" in rest(process)
        assert process.wait() == 0
        assert none_left(children)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children of a killed process")
def test_killed() -> None:
    with demo(seconds=30) as process:
        read_until(process, r"[1-9][\d,]* events/s")  # the first line may come before the first event
        children = family(process)
        process.kill()
        assert none_left(children)
