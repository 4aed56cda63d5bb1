"""A worker that is held up, as a busy hypervisor may: its own pause does not pass for one of the model's."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
import uvloop

from engines.fed import FedModel, feed
from engines.ladder import Ladder, Mode, Rung
from engines.prior import PriorModel
from tests.engines.feeding import ARTIFACT, QUICK, feeding, owners, rows

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="shares memory as Linux does"),
    pytest.mark.parametrize("run", [asyncio.run, uvloop.run]),
]

Run = Callable[[Coroutine[None, None, list[Mode]]], list[Mode]]


async def modes(model: FedModel, batches: int, *, patience_s: float, pause_s: float, after_s: float) -> list[Mode]:
    """Who answers batches whose answers all come during a pause, which begins `after_s` after they were asked for.

    The loop pauses while it looks at its sockets: by uvloop, timers come next, and the sockets again only after them.
    """
    loop, (owner,) = asyncio.get_running_loop(), owners()
    here, there = socket.socketpair()

    def pause() -> None:
        here.recv(1)
        os.kill(owner, signal.SIGCONT)
        time.sleep(pause_s)

    with here, there:
        async with feeding(model) as (worker,):
            ladder = Ladder([Rung("full", worker, patience_s)], PriorModel(model.manifest))
            await ladder.infer(*rows(4))
            os.kill(owner, signal.SIGSTOP)
            loop.add_reader(here, pause)
            asking = [asyncio.create_task(ladder.infer(*rows(4))) for _ in range(batches)]
            await asyncio.sleep(0)  # all are submitted
            threading.Timer(after_s, there.sendall, (b"!",)).start()
            answers = await asyncio.gather(*asking)
            loop.remove_reader(here)
    return [answer.mode for answer in answers]


@pytest.mark.parametrize("batches", [1, 2, 8])
def test_a_pause_that_outlasts_the_patience(folder: Path, run: Run, batches: int) -> None:
    model = feed(ARTIFACT, folder=folder, owner=QUICK, places=batches)
    assert run(modes(model, batches, patience_s=0.05, pause_s=0.5, after_s=0.0)) == ["full"] * batches


def test_a_pause_that_begins_late_in_the_patience(folder: Path, run: Run) -> None:
    model = feed(ARTIFACT, folder=folder, owner=QUICK)
    assert run(modes(model, 1, patience_s=0.4, pause_s=0.3, after_s=0.3)) == ["full"]
