"""The supervisor keeps real child processes, stops them in order, and speaks for all of them."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from scorer.health import Health
from scorer.metrics import BatchStats, Metrics
from scorer.ports import free_port
from scorer.supervisor import Restarts, Supervisor, Worker
from scorer.web import WebServer

AT_ONCE = Restarts(backoff_s=0.001, backoff_max_s=0.002, give_up_after=3)

# A worker as small as can be: it leaves its process id in a file, and ends as it is told to.
WAITS = "import os, pathlib, signal, sys; pathlib.Path(sys.argv[1], str(os.getpid())).touch(); "
UNTIL_TERM = WAITS + "signal.pause()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WAITS + "[signal.pause() for _ in range(9)]"
GRACEFUL = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); " + WAITS + "signal.pause()"


def worker(name: str, code: str, folder: Path, port: int = 1) -> Worker:
    return Worker(name, [sys.executable, "-c", code, str(folder)], port)


def born(folder: Path) -> set[int]:
    return {int(path.name) for path in folder.iterdir()}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # another process's doing sets no event
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(supervisor: Supervisor, port: int = 0) -> AsyncIterator[asyncio.Task[int]]:
    task = asyncio.create_task(supervisor.run("127.0.0.1", port))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_signal_stops_every_worker_and_leaves_none(tmp_path: Path) -> None:
    supervisor = Supervisor([worker(str(i), GRACEFUL, tmp_path) for i in range(3)], grace_s=10)
    async with running(supervisor) as task:
        await until(lambda: len(born(tmp_path)) == 3)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await task == 0
    assert not any(psutil.pid_exists(pid) for pid in born(tmp_path))


async def test_a_worker_that_dies_is_started_again_and_the_others_live_on(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    supervisor = Supervisor(
        [worker("1", UNTIL_TERM, first), worker("2", UNTIL_TERM, second)], grace_s=10, restarts=AT_ONCE
    )
    async with running(supervisor) as task:
        await until(lambda: bool(born(first) and born(second)))
        (victim,) = born(first)
        os.kill(victim, signal.SIGKILL)
        await until(lambda: len(born(first)) == 2)
        page = supervisor.pages()["/metrics"]().body.decode()
        assert 'tipstream_worker_restarts_total{worker="1"} 1.0' in page
        assert 'tipstream_worker_restarts_total{worker="2"} 0.0' in page
        supervisor.stop()
        assert await task == 0
    assert len(born(second)) == 1


async def test_a_worker_that_keeps_dying_ends_all_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(
        [worker("1", WAITS + "sys.exit(7)", tmp_path), worker("2", UNTIL_TERM, tmp_path)], grace_s=10, restarts=AT_ONCE
    )
    async with running(supervisor) as task:
        assert await task == 1
    assert "Worker 1 died 3 times in a row, at last it ended with status 7" in caplog.text
    assert len(born(tmp_path)) >= 3
    assert not any(psutil.pid_exists(pid) for pid in born(tmp_path))


async def test_a_long_life_starts_a_new_row_of_deaths(tmp_path: Path) -> None:
    hours = iter(range(0, 1_000_000, 3600))
    code = WAITS + "sys.exit(1)"
    supervisor = Supervisor(
        [worker("1", code, tmp_path)], grace_s=10, restarts=AT_ONCE, clock=lambda: float(next(hours))
    )
    async with running(supervisor) as task:
        await until(lambda: len(born(tmp_path)) > AT_ONCE.give_up_after)
        supervisor.stop()
        assert await task == 0


async def test_a_worker_without_kafka_is_started_again_however_often(tmp_path: Path) -> None:
    supervisor = Supervisor([worker("1", WAITS + "sys.exit(75)", tmp_path)], grace_s=10, restarts=AT_ONCE)
    async with running(supervisor) as task:
        await until(lambda: len(born(tmp_path)) > 2 * AT_ONCE.give_up_after)
        supervisor.stop()
        assert await task == 0


async def test_a_worker_for_which_there_is_no_process_is_tried_again_and_the_others_live_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    create, refusals = asyncio.create_subprocess_exec, iter([OSError(errno.EAGAIN, "no more processes")] * 3)

    async def refuses(*command: str, **options: Any) -> asyncio.subprocess.Process:
        for refusal in refusals:
            raise refusal
        return await create(*command, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuses)
    supervisor = Supervisor([worker("1", UNTIL_TERM, tmp_path)], grace_s=10, restarts=AT_ONCE)
    async with running(supervisor) as task:
        await until(lambda: len(born(tmp_path)) == 1)
        supervisor.stop()
        assert await task == 0
    assert "Worker 1 could not be started (no more processes)" in caplog.text


async def test_a_wrong_configuration_is_not_tried_again(tmp_path: Path) -> None:
    supervisor = Supervisor([worker("1", WAITS + "sys.exit(2)", tmp_path)], grace_s=10)
    async with running(supervisor) as task:
        assert await task == 1
    assert len(born(tmp_path)) == 1


async def test_a_worker_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    supervisor = Supervisor([worker("1", DEAF, tmp_path)], grace_s=0.2)
    async with running(supervisor) as task:
        await until(lambda: len(born(tmp_path)) == 1)
        supervisor.stop()
        assert await task == 0
    assert not any(psutil.pid_exists(pid) for pid in born(tmp_path))


async def test_a_cancelled_supervisor_leaves_no_process(tmp_path: Path) -> None:
    supervisor = Supervisor([worker("1", UNTIL_TERM, tmp_path)], grace_s=10)
    async with running(supervisor):
        await until(lambda: len(born(tmp_path)) == 1)
    assert not any(psutil.pid_exists(pid) for pid in born(tmp_path))


def test_pages_are_those_of_all_workers() -> None:
    parts = [(Metrics(), Health()) for _ in range(2)]
    with (
        WebServer(parts[0][1].pages(parts[0][0]), "127.0.0.1", 0) as first,
        WebServer(parts[1][1].pages(parts[1][0]), "127.0.0.1", 0) as second,
    ):
        workers = [Worker("1", [], first.port), Worker("2", [], second.port)]
        pages = Supervisor(workers, grace_s=1).pages()
        assert pages["/healthz"]().status == 200
        parts[0][1].enter("ready")
        ready = pages["/readyz"]()
        assert ready.status == 503
        (reason,) = json.loads(ready.body)["reasons"]
        assert reason.startswith("Worker 2: ")
        assert "starting" in reason
        parts[1][1].enter("ready")
        assert pages["/readyz"]().status == 200
        for number, (metrics, _) in enumerate(parts, 1):
            metrics.observe(BatchStats(consumed=number, scored=number))
        page = pages["/metrics"]().body.decode()
        assert 'tipstream_records_consumed_total{worker="1"} 1.0' in page
        assert 'tipstream_records_consumed_total{worker="2"} 2.0' in page


def test_a_worker_that_does_not_answer_is_named() -> None:
    port = free_port()
    pages = Supervisor([Worker("7", [], port)], grace_s=1).pages()
    answer = pages["/healthz"]()
    assert answer.status == 503
    assert json.loads(answer.body)["reasons"][0].startswith(f"Worker 7: does not answer on port {port}")
    assert b'tipstream_worker_up{worker="7"} 0.0' in pages["/metrics"]().body


async def test_a_worker_that_ends_in_the_middle_of_its_answer_is_named() -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\ntipstream_")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(half, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        pages = Supervisor([Worker("7", [], port)], grace_s=1).pages()
        page = await asyncio.to_thread(pages["/metrics"])
        answer = await asyncio.to_thread(pages["/healthz"])
    assert b'tipstream_worker_up{worker="7"} 0.0' in page.body
    assert json.loads(answer.body)["reasons"][0].startswith(f"Worker 7: does not answer on port {port}")


async def test_the_pages_answer_on_the_main_port(tmp_path: Path) -> None:
    port = free_port()
    supervisor = Supervisor([worker("1", UNTIL_TERM, tmp_path)], grace_s=10)

    def fetch() -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refused:
            refused.close()
            return refused.code

    async with running(supervisor, port):
        await until(lambda: len(born(tmp_path)) == 1)
        assert await asyncio.to_thread(fetch) == 503, "the child has no pages"
