"""A model in a process of its own, fed by others: real processes, with ONNX Runtime in the place of a GPU."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from engines import fed, owner
from engines.cpu import OnnxModel
from engines.fed import FedWorker, Link, feed
from engines.ladder import Ladder, Rung
from engines.model import BadScores, ModelError
from engines.prior import PriorModel
from tests.engines.feeding import ARTIFACT, QUICK, feeding, gone, owners, rows

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shares memory as Linux does")


async def back(worker: FedWorker) -> None:
    """Wait until a worker has lost its owner and found another."""
    async with asyncio.timeout(20):
        while not worker._lost:  # noqa: ASYNC110 -- it hears of it by itself
            await asyncio.sleep(0.01)
        while worker._lost:  # noqa: ASYNC110 -- it comes back by itself
            await asyncio.sleep(0.01)


def sockets(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_socket()]


def shared_memories() -> int:
    """Count this process's descriptors of memory that it shares with owners."""
    descriptors = [each for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return sum("memfd:tipstream" in str(each.readlink()) for each in descriptors)


async def test_workers_of_one_machine_share_one_owner(folder: Path) -> None:
    first = await asyncio.to_thread(lambda: feed(ARTIFACT, folder=folder, owner=QUICK))
    second = await asyncio.to_thread(lambda: feed(ARTIFACT, folder=folder, owner=QUICK, places=5))
    reference = OnnxModel(ARTIFACT)
    assert len(owners()) == 1
    assert (first.engine, first.buckets, first.max_batch) == (reference.engine, reference.buckets, reference.max_batch)
    np.testing.assert_array_equal(first.infer(*rows(7)).p_tip, reference.infer(*rows(7)).p_tip)
    async with feeding(first, second) as workers:
        for n in (1, 8, 100, 1024):
            futures = [worker.submit(*rows(n, seed)) for seed, worker in enumerate(workers)]
            for seed, future in enumerate(futures):
                found, expected = await future, reference.infer(*rows(n, seed))
                np.testing.assert_array_equal(found.p_tip, expected.p_tip)
                np.testing.assert_array_equal(found.value, expected.value)
        batches = [rows(n, n) for n in range(1, 6)]
        answers = await asyncio.gather(*(workers[1].submit(*batch) for batch in batches))
        for answer, batch in zip(answers, batches, strict=True):
            np.testing.assert_array_equal(answer.p_tip, reference.infer(*batch).p_tip)
    assert sockets(folder) == [], "none is left behind"


async def test_a_late_answer_is_not_taken_for_that_to_another_batch(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as impatient:
        impatient.setattr(fed, "_ANSWER_S", 1.0)
        model = await asyncio.to_thread(lambda: feed(ARTIFACT, folder=folder, owner=QUICK))
    (stopped,) = owners()
    os.kill(stopped, signal.SIGSTOP)
    with pytest.raises(ModelError, match="does not answer: timed out"):
        model.infer(*rows(8, 1))
    os.kill(stopped, signal.SIGCONT)
    with pytest.raises(ModelError, match=r"failed to answer before .* Load it again"):
        model.infer(*rows(8, 2))
    model.close()
    await gone()


async def test_one_worker_that_leaves_does_not_take_the_owner_along(folder: Path) -> None:
    models = [await asyncio.to_thread(lambda: feed(ARTIFACT, folder=folder, owner=QUICK)) for _ in range(2)]
    async with feeding(*models) as workers:
        under_way = workers[0].submit(*rows(8))
        workers[0].close()
        assert len((await under_way).value) == 8, "what was under way is answered"
        with pytest.raises(ModelError, match="takes no more batches"):
            workers[0].submit(*rows(1))
        assert len((await workers[1].submit(*rows(8))).value) == 8


async def test_a_batch_too_many_or_of_another_shape_is_refused(folder: Path) -> None:
    async with feeding(await asyncio.to_thread(lambda: feed(ARTIFACT, folder=folder, owner=QUICK))) as (worker,):
        with pytest.raises(ModelError, match="`features` is float32"):
            worker.submit(np.zeros((1, 4), np.float32), rows(1)[1])
        with pytest.raises(ModelError, match="A batch of 1025 rows"):
            worker.submit(*rows(1025))
        futures = [worker.submit(*rows(500)) for _ in range(2)]
        with pytest.raises(ModelError, match="2 batches under way, and no place for another"):
            worker.submit(*rows(1))
        assert worker.busy
        await asyncio.gather(*futures)
        assert not worker.busy


async def test_nonsense_is_known_by_its_row(folder: Path) -> None:
    async with feeding(await asyncio.to_thread(lambda: feed(ARTIFACT, folder=folder, owner=QUICK))) as (worker,):
        features, history = rows(5)
        features[3] = np.nan
        with pytest.raises(BadScores, match=r"Row 3 of a batch of 5 .* its inputs hold NaN"):
            await worker.submit(features, history)
        assert len((await worker.submit(*rows(5))).value) == 5


async def test_an_owner_that_is_killed_is_stood_in_for_and_comes_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fed, "_AGAIN_S", (0.0,))
    async with feeding(await asyncio.to_thread(lambda: feed(ARTIFACT, folder=folder, owner=QUICK))) as (worker,):
        cpu = PriorModel(ARTIFACT.manifest)
        ladder = Ladder([Rung("full", worker, 5.0)], cpu)
        assert (await ladder.infer(*rows(4))).mode == "full"
        (before,) = owners()
        os.kill(before, signal.SIGSTOP)
        under_way = worker.submit(*rows(8))
        os.kill(before, signal.SIGKILL)
        with pytest.raises(ModelError, match="ended"):
            await under_way
        assert (await ladder.infer(*rows(4))).mode == "prior"
        async with asyncio.timeout(20):
            while worker._lost:  # noqa: ASYNC110 -- it comes back by itself
                await asyncio.sleep(0.01)
        (after,) = owners()
        assert after != before
        assert (await ladder.infer(*rows(4))).mode == "full"


async def test_an_owner_comes_back_once_there_is_a_thread_to_start_it_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = threading.Thread.start
    refused: list[threading.Thread] = []

    def short_of_threads(thread: threading.Thread) -> None:
        if thread.name == "background" and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(fed, "_AGAIN_S", (0.0,))
    async with feeding(await asyncio.to_thread(lambda: feed(ARTIFACT, folder=folder, owner=QUICK))) as (worker,):
        monkeypatch.setattr(threading.Thread, "start", short_of_threads)
        (before,) = owners()
        os.kill(before, signal.SIGKILL)
        await back(worker)
        assert "is not back: can't start new thread" in caplog.text
        assert len((await worker.submit(*rows(8))).value) == 8


async def test_a_worker_that_is_closed_while_its_owner_comes_back_holds_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fed, "_AGAIN_S", (0.0,))
    before = shared_memories()
    async with feeding(await asyncio.to_thread(lambda: feed(ARTIFACT, folder=folder, owner=QUICK))) as (worker,):
        connect, connecting, closed = worker.model.connect, asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def slowly() -> Link:
            loop.call_soon_threadsafe(connecting.set)
            closed.wait(20)
            return connect()

        worker.model.connect = slowly
        (running,) = owners()
        os.kill(running, signal.SIGKILL)
        await asyncio.wait_for(connecting.wait(), 20)
        worker.close()
        await asyncio.sleep(0)
        closed.set()
        assert worker._coming is not None
        await asyncio.wait_for(worker._coming, 20)
        assert worker._lost
    assert shared_memories() == before


async def test_an_owner_of_another_pid_namespace_is_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = await asyncio.to_thread(lambda: feed(ARTIFACT, folder=folder, owner=QUICK))
    async with feeding(model) as (worker,):
        unseen = SimpleNamespace(getsockopt=lambda *_: struct.pack("3i", 0, 0, 0))
        with monkeypatch.context() as there:
            there.setattr(os, "kill", lambda pid, _: pytest.fail(f"it would kill {pid}"))
            there.setattr(model.link, "connection", unseen)
            model.link.kill()
        assert len((await worker.submit(*rows(8))).value) == 8


async def test_an_owner_that_hangs_is_ended_and_comes_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fed, "_AGAIN_S", (0.0,))
    async with feeding(await asyncio.to_thread(lambda: feed(ARTIFACT, folder=folder, owner=QUICK))) as (worker,):
        (before,) = owners()
        assert len((await worker.submit(*rows(8))).value) == 8
        worker._look()
        under_way = worker.submit(*rows(8))
        worker._look()
        assert len((await under_way).value) == 8, "to be idle is not to hang, nor is to be at work"
        worker._look()
        os.kill(before, signal.SIGSTOP)
        with monkeypatch.context() as patience:
            patience.setattr(fed, "_HANGS_S", 0.3)
            with pytest.raises(ModelError, match=r"has not answered for \d+ s, and was killed"):
                await worker.submit(*rows(8))
        async with asyncio.timeout(20):
            while worker._lost:  # noqa: ASYNC110 -- it comes back by itself
                await asyncio.sleep(0.01)
        assert owners() != [before]
        assert len((await worker.submit(*rows(8))).value) == 8


async def test_an_owner_that_was_taken_for_dead_leaves_its_successor_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await asyncio.to_thread(lambda: feed(ARTIFACT, folder=folder, owner=QUICK))
    (stopped,) = owners()
    os.kill(stopped, signal.SIGSTOP)
    with monkeypatch.context() as impatient:
        impatient.setattr(fed, "_ANSWER_S", 1.0)
        second = await asyncio.to_thread(lambda: feed(ARTIFACT, folder=folder, owner=QUICK))
    os.kill(stopped, signal.SIGCONT)
    first.close()
    async with asyncio.timeout(20):
        while stopped in owners():  # noqa: ASYNC110 -- it ends by itself
            await asyncio.sleep(0.01)
    third = await asyncio.to_thread(lambda: feed(ARTIFACT, folder=folder, owner=QUICK))
    assert len(owners()) == 1
    async with feeding(second, third) as workers:
        for worker in workers:
            assert len((await worker.submit(*rows(8))).value) == 8


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("import os; os.kill(os.getpid(), 11)", r"killed by signal 11 \(SIGSEGV\)"),
        ("raise SystemExit(3)", "ended with status 3"),
        ("print('hello'); print('''{\"engine\": \"\", \"error\": \"no such GPU\"}''')", "no such GPU"),
        ("import os; os.write(1, bytes([255, 10])); print('''{}'''); raise SystemExit(4)", "ended with status 4"),
    ],
)
def test_an_engine_that_does_not_load_is_said_in_words(folder: Path, command: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        feed(ARTIFACT, folder=folder, owner=(sys.executable, "-c", command))


async def test_what_a_library_prints_is_not_taken_for_the_owners_words(folder: Path) -> None:
    talkative = "from engines import owner; owner._LONELY_S = 0.1; print('hello', flush=True); {}owner.main()"
    for words in ("", "print('{\"hello\": 1}', flush=True); "):
        command = (sys.executable, "-c", talkative.format(words))
        async with feeding(await asyncio.to_thread(partial(feed, ARTIFACT, folder=folder, owner=command))) as (worker,):
            assert len((await worker.submit(*rows(8))).value) == 8


def test_an_owner_that_never_reads_is_given_up_in_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fed, "_LOAD_S", 0.5)
    larger = ARTIFACT._replace(onnx=bytes(1_000_000))  # than a pipe holds
    with pytest.raises(ModelError, match=r"was not loaded and tested within \d+ s"):
        feed(larger, folder=folder, owner=(sys.executable, "-c", "import signal; signal.pause()"))
    assert not owners()


def test_an_owner_that_cannot_be_started_is_said_in_words(folder: Path) -> None:
    with pytest.raises(ModelError, match="cannot be started"):
        feed(ARTIFACT, folder=folder, owner=(str(folder / "missing"),))
    with pytest.raises(ModelError, match="cannot be started"):
        feed(ARTIFACT, folder=folder / "missing")


def test_a_temporary_folder_that_cannot_be_used_is_said_in_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"tipstream-{os.getuid()}").touch()
    with pytest.raises(ModelError, match=r"cannot be started .*Look at the machine's .* temporary folder"):
        feed(ARTIFACT)


def test_a_folder_too_deep_for_a_socket_is_said_in_words(folder: Path) -> None:
    deep = folder / ("x" * 100)
    deep.mkdir()
    with pytest.raises(ModelError, match=r"bytes long, and a socket's path may have 107\. Set TMPDIR"):
        feed(ARTIFACT, folder=deep)


def test_a_model_that_cannot_be_loaded_is_said_in_its_owners_words(folder: Path) -> None:
    with pytest.raises(ModelError, match="cannot load model small 1"):
        feed(ARTIFACT._replace(onnx=b"no model"), folder=folder)


async def test_whoever_says_no_hello_is_sent_away_and_others_are_not(folder: Path) -> None:
    async with feeding(await asyncio.to_thread(lambda: feed(ARTIFACT, folder=folder, owner=QUICK))) as (worker,):
        (path,) = sockets(folder)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.connect(str(path))
            stranger.send(b"hello?")
            stranger.settimeout(10)
            assert await asyncio.to_thread(stranger.recv, owner.MOST) == b""
        assert len((await worker.submit(*rows(8))).value) == 8


def test_a_folder_that_others_may_write_to_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = fed._folder()
    assert made.stat().st_mode & 0o777 == 0o700
    made.chmod(0o777)
    with pytest.raises(ModelError, match="must belong to this user alone"):
        fed._folder()
