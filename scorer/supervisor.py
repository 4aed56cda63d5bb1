"""Several members of one consumer group on one machine: a process each, under one that keeps them and speaks for them.

A Python process keeps one core busy, so a machine with many cores runs many. Each worker has its own model, its own
rows in memory and its own connections: N workers need N times the memory of one.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.client import HTTPException
from typing import Final, NamedTuple

from engines.child import how_ended
from scorer.instruments import Counter, Gauge
from scorer.metrics import CONTENT_TYPE, merge
from scorer.web import Page, Routes, WebServer, verdict

log = logging.getLogger(__name__)

USAGE_ERROR: Final = 2  # a worker that exits so was configured wrongly: starting it again cannot help
TRY_LATER: Final = 75  # EX_TEMPFAIL of <sysexits.h>: what it needs was not there; it starts again however often
_SCRAPE_S: Final = 2.0


class Worker(NamedTuple):
    """One child: what to run, and the port where it answers."""

    name: str
    command: Sequence[str]
    port: int


class Restarts(NamedTuple):
    """When to start a worker that died again, and when to give up."""

    backoff_s: float = 0.5  # before the first restart; doubles with each death in a row
    backoff_max_s: float = 15.0
    quick_s: float = 30.0  # a worker that lived longer starts a new row
    give_up_after: int = 5  # deaths in a row


class Supervisor:
    """Runs the workers until a signal, or until one of them cannot be kept alive.

    `grace_s` is how long a worker may take to stop before it is killed. `clock` counts seconds.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        *,
        grace_s: float,
        restarts: Restarts = Restarts(),  # noqa: B008  # immutable
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workers = workers
        self._grace_s = grace_s
        self._restarts = restarts
        self._clock = clock
        self._stopping = asyncio.Event()
        self._given_up: str | None = None
        self._up = Gauge("tipstream_worker_up", "1 while the worker's process runs.", "worker")
        self._deaths = Counter("tipstream_worker_restarts", "Times that the worker's process died.", "worker")
        for worker in workers:
            self._up.set(0, worker.name)
            self._deaths.add(0, worker.name)

    async def run(self, host: str, port: int) -> int:
        """Keep the workers, and answer for them on `host:port`. Returns the exit status: 0 after a signal, else 1."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            with WebServer(self.pages(), host, port) as server:
                log.info("%d workers; health and metrics on port %d.", len(self._workers), server.port)
                async with asyncio.TaskGroup() as group:
                    for worker in self._workers:
                        group.create_task(self._keep(worker))
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        if self._given_up:
            log.error("%s", self._given_up)
        return 1 if self._given_up else 0

    def stop(self) -> None:
        """Tell every worker to finish what it has and end."""
        self._stopping.set()

    def pages(self) -> Routes:
        """Return the workers' pages made one: healthy or ready is what all of them are."""
        return {
            "/healthz": lambda: self._all_of("/healthz"),
            "/readyz": lambda: self._all_of("/readyz"),
            "/metrics": self._metrics,
        }

    async def _keep(self, worker: Worker) -> None:
        """Run one worker again and again until told to stop."""
        deaths: deque[str] = deque(maxlen=self._restarts.give_up_after)
        row = 0  # of short lives, those that ended for want of Kafka included
        while not self._stopping.is_set():
            began = self._clock()
            try:
                status = await self._live(worker)
                end = how_ended(status)
            except OSError as error:  # no more processes, or no memory for one: the other workers go on
                status, end = TRY_LATER, f"could not be started ({error.strerror})"
            if self._stopping.is_set():
                return
            self._deaths.add(1, worker.name)
            if self._clock() - began > self._restarts.quick_s:
                deaths.clear()
                row = 0
            row += 1
            if status != TRY_LATER:
                deaths.append(end)
            if status == USAGE_ERROR or len(deaths) == self._restarts.give_up_after:
                self._give_up(worker, deaths)
                return
            wait_s = min(self._restarts.backoff_s * 2 ** min(row - 1, 16), self._restarts.backoff_max_s)
            log.warning("Worker %s %s; it starts again in %.1f s.", worker.name, end, wait_s)
            await _either(self._stopping, wait_s)

    async def _live(self, worker: Worker) -> int:
        """Run the worker's process once, to its end; return its exit status, negative for a signal."""
        # A group of its own: Ctrl-C in a terminal must reach the workers once, through us.
        process = await asyncio.create_subprocess_exec(*worker.command, process_group=0)
        self._up.set(1, worker.name)
        ended = asyncio.ensure_future(process.wait())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((ended, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                process.terminate()
                await asyncio.wait((ended,), timeout=self._grace_s)
            if not ended.done():
                log.error("Worker %s did not stop within %.1f s: killed.", worker.name, self._grace_s)
                process.kill()
            return await ended
        finally:
            stopping.cancel()
            if process.returncode is None:  # cancelled: leave no process behind
                process.kill()
                await process.wait()
            self._up.set(0, worker.name)

    def _give_up(self, worker: Worker, deaths: Sequence[str]) -> None:
        times = "once" if len(deaths) == 1 else f"{len(deaths)} times in a row"
        self._given_up = (
            f"Worker {worker.name} died {times}, at last it {deaths[-1]}; its log lines above say why. "
            "All workers are stopped."
        )
        self._stopping.set()

    def _all_of(self, path: str) -> Page:
        reasons = [
            f"Worker {worker.name}: {answer.body.decode(errors='replace').strip()}"
            for worker, answer in zip(self._workers, self._ask(path), strict=True)
            if answer.status != HTTPStatus.OK
        ]
        return verdict(reasons, workers=len(self._workers))

    def _metrics(self) -> Page:
        pages = {
            worker.name: answer.body.decode()
            for worker, answer in zip(self._workers, self._ask("/metrics"), strict=True)
            if answer.status == HTTPStatus.OK
        }
        return Page(HTTPStatus.OK, CONTENT_TYPE, merge(pages, [self._up, self._deaths]))

    def _ask(self, path: str) -> list[Page]:
        """Return each worker's page, all asked at once so that one that hangs costs its own patience only."""
        with ThreadPoolExecutor(len(self._workers)) as pool:
            return list(pool.map(lambda worker: _fetch(worker.port, path), self._workers))


def _fetch(port: int, path: str) -> Page:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=_SCRAPE_S) as answer:
            return Page(HTTPStatus(answer.status), answer.headers["Content-Type"], answer.read())
    except urllib.error.HTTPError as refused:
        with refused:
            return Page(HTTPStatus(refused.code), refused.headers["Content-Type"], refused.read())
    except (OSError, HTTPException) as error:  # the second: it ended in the middle of its answer
        return Page(HTTPStatus.BAD_GATEWAY, "text/plain", f"does not answer on port {port} ({error})".encode())


async def _either(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event or the time, whichever comes first."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
