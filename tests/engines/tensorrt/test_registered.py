"""Rows that the GPU reads where they lie: scored as copied ones are, and let go of before their memory is."""

from __future__ import annotations

import contextlib
import gc
import itertools
import re
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import engines
from engines import owner
from engines.in_place import InPlace
from engines.manifest import read, read_manifest
from engines.model import ModelError, Scores
from engines.owner import BATCH, MOST, Hello, Owner
from engines.segment import Segment
from engines.tensorrt.build import build
from engines.tensorrt.plan import Settings
from tests.engines import small_models
from tests.engines.tensorrt.fake_cuda import FakeCuda
from tests.engines.tensorrt.stage import BUCKETS, Stage, rows

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shares memory as Linux does")

REFERENCE = Path(engines.__file__).parent / "models" / "reference"
MANIFEST = small_models.artifact().manifest
LENGTHS = (2, 4)


@pytest.fixture
def segment() -> Iterator[Segment]:
    """Two places of as many rows as the largest bucket has."""
    made = Segment(MANIFEST, BUCKETS[-1], 2)
    yield made
    made.close()


def registered(runner: Any, segment: Segment) -> Any:
    """Register a segment and take every step."""
    made = runner.register(segment)
    while runner.prepare(made):
        pass
    return made


def put(segment: Segment, at: int, n: int, seed: int, *, length: int | None = None) -> tuple[Any, Any]:
    """Have a place hold n rows, with so many events each, and after them rows of other batches; return the n."""
    rng, place = np.random.default_rng(seed), segment.places[at]
    place.features[:] = rng.exponential(1.0, place.features.shape)
    place.history[:] = rng.exponential(1.0, place.history.shape)
    place.history[:, :, 0] = rng.integers(1, 12, place.history.shape[:2])  # codes of types
    place.history[:n, length or place.history.shape[1] :] = 0
    return place.features[:n].copy(), place.history[:n].copy()


def taken(segment: Segment, at: int, n: int) -> Scores:
    return Scores(segment.places[at].p_tip[:n].copy(), segment.places[at].value[:n].copy())


def assert_equal(found: Scores, expected: Scores) -> None:
    np.testing.assert_array_equal(found.p_tip, expected.p_tip)
    np.testing.assert_array_equal(found.value, expected.value)


def staged(runner: Any) -> list[bytes]:
    """What lies where rows are copied to."""
    return [slot.features.tobytes() + slot.history.tobytes() for slot in runner._every_slot()]


def mappings() -> int:
    """Count the segments that are mapped."""
    return Path("/proc/self/maps").read_text().count("memfd:tipstream")


@pytest.mark.parametrize("length", LENGTHS)
def test_rows_in_a_place_score_as_copied_ones_do(stage: Stage, segment: Segment, length: int) -> None:
    runner = stage.load(stage.engine(settings=Settings(buckets=BUCKETS, lengths=LENGTHS)))
    fits: bool = isinstance(runner, InPlace)
    assert fits
    ours = registered(runner, segment)
    for n in range(1, BUCKETS[-1] + 1):
        batches = [put(segment, at, n, n + at, length=length) for at in (0, 1)]
        before, launched = staged(runner), stage.cuda.launched
        tickets = [runner.launch_at(ours, at, n) for at in (0, 1)]
        assert [ticket.slot.length for ticket in tickets] == [length] * 2
        with pytest.raises(ModelError, match="2 batches are in flight"):
            runner.launch_at(ours, 0, n)
        for ticket in tickets:
            runner.finish(ticket)
        assert stage.cuda.launched == launched + 2, "one graph launch a batch"
        assert staged(runner) == before, "nothing was copied"
        for at, batch in enumerate(batches):
            assert_equal(taken(segment, at, n), runner.infer(*batch))
    runner.unregister(ours)
    runner.close()
    assert not stage.cuda.registered
    assert not stage.cuda.graphs


def test_batches_in_places_and_copied_ones_take_turns(stage: Stage, segment: Segment) -> None:
    runner = stage.load()
    ours = registered(runner, segment)
    here = put(segment, 0, 5, 1)
    there = [rows(5, seed) for seed in range(2, 5)]
    first, second = runner.launch(*there[0]), runner.launch_at(ours, 0, 5)
    assert_equal(runner.collect(first), stage.reference.infer(*there[0]))
    third = runner.launch(*there[1])
    runner.finish(second)
    assert_equal(taken(segment, 0, 5), stage.reference.infer(*here))
    fourth = runner.launch(*there[2])
    assert_equal(runner.collect(third), stage.reference.infer(*there[1]))
    assert_equal(runner.collect(fourth), stage.reference.infer(*there[2]))


def test_rows_are_copied_until_their_graph_is_there(stage: Stage, segment: Segment) -> None:
    runner = stage.load()
    ours = runner.register(segment)
    graphs = set()
    while True:
        left = runner.prepare(ours)
        graphs.add(len(ours.slots))
        for at, n in ((0, 1), (1, 8)):
            batch = put(segment, at, n, n)
            runner.finish(runner.launch_at(ours, at, n))
            assert_equal(taken(segment, at, n), stage.reference.infer(*batch))
        if not left:
            break
    assert graphs == set(range(2 * len(BUCKETS) + 1)), "one graph a step"


def refuse_to_lock(stage: Stage) -> None:
    stage.cuda.fail["cudaHostRegister"] = "cudaErrorMemoryAllocation"


def run_out_of_memory(stage: Stage) -> None:
    stage.cuda.fail["cudaMalloc"] = "cudaErrorMemoryAllocation"


def refuse_to_mark(stage: Stage) -> None:
    stage.cuda.fail["cudaEventRecordWithFlags"] = "cudaErrorInvalidValue"


def refuse_to_record(stage: Stage) -> None:
    stage.cuda.fail["cudaStreamEndCapture"] = "cudaErrorStreamCaptureInvalidated"


def have_no_room_for_a_graph(stage: Stage) -> None:
    stage.cuda.fail["cudaGraphUpload"] = "cudaErrorMemoryAllocation"


def answer_otherwise(stage: Stage) -> None:
    launch, known = stage.cuda.cudaGraphLaunch, set(stage.cuda.graphs)

    def lazily(graph: int, _: int) -> tuple[Any]:
        return launch(graph, _) if graph in known else (FakeCuda.cudaError_t["cudaSuccess"],)

    stage.cuda.cudaGraphLaunch = lazily  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (refuse_to_lock, r"cudaHostRegister failed: .*cudaErrorMemoryAllocation"),
        (run_out_of_memory, r"cudaMalloc failed: .*cudaErrorMemoryAllocation"),
        (refuse_to_mark, r"cudaEventRecordWithFlags failed"),
        (refuse_to_record, r"cudaStreamEndCapture failed"),
        (have_no_room_for_a_graph, r"cudaGraphUpload failed: .*cudaErrorMemoryAllocation"),
        (answer_otherwise, r"answers differ from the plain launch's"),
    ],
)
def test_where_it_cannot_be_done_rows_are_copied(
    stage: Stage, segment: Segment, caplog: pytest.LogCaptureFixture, spoil: Any, words: str
) -> None:
    runner = stage.load()
    graphs = len(stage.cuda.graphs)
    spoil(stage)
    ours = registered(runner, segment)
    (warning,) = caplog.messages
    assert "copies a worker's rows" in warning
    assert re.search(words, warning)
    assert not ours.slots
    assert not stage.cuda.registered
    assert len(stage.cuda.graphs) == graphs
    assert stage.cuda.last_error == FakeCuda.cudaError_t["cudaSuccess"], "it is blamed on no later call"
    batch = put(segment, 1, 3, 7)
    runner.finish(runner.launch_at(ours, 1, 3))
    assert_equal(taken(segment, 1, 3), stage.reference.infer(*batch))
    runner.unregister(ours)


@pytest.mark.parametrize(
    "call", ["cudaHostRegister", "cudaMalloc", "cudaEventRecordWithFlags", "cudaGraphUpload", "cudaEventSynchronize"]
)
def test_what_failed_holds_no_memory_of_a_worker_that_left(
    stage: Stage, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = stage.load()
    monkeypatch.setattr(stage.module.log, "disabled", True)  # pytest would keep the errors that are logged
    gc.collect()
    gc.disable()  # as in the process that owns an engine
    try:
        before = mappings()
        segment = Segment(MANIFEST, BUCKETS[-1], 2)
        stage.cuda.fail[call] = "cudaErrorInvalidValue"
        ours = registered(runner, segment)
        with contextlib.suppress(ModelError):
            runner.finish(runner.launch_at(ours, 0, 8))
        stage.cuda.fail.clear()
        runner.unregister(ours)
        segment.close()
        del segment, ours
        assert mappings() == before
    finally:
        gc.enable()


def test_buckets_without_a_graph_and_larger_than_a_place_are_copied(stage: Stage) -> None:
    plain = stage.load(graphs=False)
    small = Segment(MANIFEST, 4, 1)
    assert not registered(plain, small).slots
    assert not stage.cuda.registered, "for nothing"
    runner = stage.load()
    ours = registered(runner, small)
    assert sorted(slot.batch for slot in ours.slots.values()) == [1, 4]
    runner.close()
    assert not stage.cuda.registered
    small.close()


def test_more_rows_than_the_model_takes_are_refused_in_words(stage: Stage) -> None:
    runner, large = stage.load(), Segment(MANIFEST, 16, 1)
    with pytest.raises(ModelError, match="A batch of 9 rows was given; this model takes 1 to 8"):
        runner.launch_at(registered(runner, large), 0, 9)
    large.close()


def test_the_gpu_is_waited_for_before_its_memory_goes(stage: Stage, segment: Segment) -> None:
    runner = stage.load()
    ours = registered(runner, segment)
    put(segment, 0, 8, 1)
    runner.launch_at(ours, 0, 8)
    runner.unregister(ours)  # the stage fails this where copies of a page-locked place are still to come
    assert not stage.cuda.registered


@pytest.mark.parametrize(
    "call", ["cudaHostRegister", "cudaMalloc", "cudaStreamEndCapture", "cudaGraphLaunch", "cudaEventSynchronize"]
)
def test_a_dead_context_ends_the_process_while_it_prepares(stage: Stage, segment: Segment, call: str) -> None:
    reasons: list[str] = []
    runner = stage.load(lost=reasons.append)
    stage.cuda.fail[call] = "cudaErrorIllegalAddress"
    ours = runner.register(segment)
    while not reasons and runner.prepare(ours):
        pass
    assert "lost its GPU" in reasons[0]


def test_a_gpu_that_cannot_be_waited_for_ends_the_process_before_memory_goes(stage: Stage, segment: Segment) -> None:
    reasons: list[str] = []
    runner = stage.load(lost=reasons.append)
    ours = registered(runner, segment)
    stage.cuda.fail["cudaStreamSynchronize"] = "cudaErrorInvalidValue"
    with pytest.raises(ModelError, match="cudaStreamSynchronize failed"):
        runner.unregister(ours)
    assert "cannot wait for its GPU" in reasons[0]
    assert stage.cuda.registered


@pytest.mark.parametrize("code", ["cudaErrorIllegalAddress", "cudaErrorInvalidValue"])
def test_an_error_in_a_place_is_the_batches(stage: Stage, segment: Segment, code: str) -> None:
    reasons: list[str] = []
    runner = stage.load(lost=reasons.append)
    ours = registered(runner, segment)
    ticket = runner.launch_at(ours, 0, 8)
    stage.cuda.fail["cudaEventSynchronize"] = code
    with pytest.raises(ModelError, match=code):
        runner.finish(ticket)
    assert bool(reasons) == (code == "cudaErrorIllegalAddress")
    stage.cuda.fail.clear()
    runner.finish(runner.launch_at(ours, 0, 8))


def leave_with_a_batch_under_way(runner: Any, most_rows: int, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an owner's only worker send a batch and hang up; its scores must be there, where nobody asks any more."""
    launched: list[Any] = []
    launch_at = runner.launch_at

    def launch(*where: Any) -> Any:
        launched.append(launch_at(*where))
        return launched[-1]

    monkeypatch.setattr(runner, "launch_at", launch)
    monkeypatch.setattr(owner, "_LONELY_S", 20.0)
    folder, segment = Path(tempfile.mkdtemp(prefix="owner-", dir="/tmp")), Segment(MANIFEST, most_rows, 2)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as worker,
    ):
        listener.bind(str(folder / "s"))
        listener.listen()
        listener.setblocking(False)
        running = threading.Thread(target=Owner(runner, listener).run)
        running.start()
        worker.settimeout(20)
        worker.connect(str(folder / "s"))
        socket.send_fds(worker, [msgspec.json.encode(Hello(most_rows, 2))], [segment.fd])
        assert worker.recv(MOST)
        batch = put(segment, 1, n, 3)
        worker.send(BATCH.pack(1, n))
        worker.close()
        monkeypatch.setattr(owner, "_LONELY_S", 0.0)
        running.join(20)
        assert not running.is_alive()
    (ticket,) = launched
    assert ticket.place is None, "its rows were read where they lie"
    assert_equal(taken(segment, 1, n), runner.infer(*batch))
    segment.close()
    shutil.rmtree(folder)


def test_a_worker_that_leaves_is_let_go_of_when_its_batch_is_done(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = stage.load()
    leave_with_a_batch_under_way(runner, BUCKETS[-1], 6, monkeypatch)
    assert not stage.cuda.registered
    assert len(stage.cuda.graphs) == len(list(runner._every_slot())), "none but those that it was loaded with"


@pytest.mark.gpu
@pytest.mark.parametrize("lengths", [(), (16, 32)])
def test_rows_in_a_place_score_as_copied_ones_do_on_a_gpu(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    module = pytest.importorskip("engines.tensorrt.runner", reason="needs an NVIDIA GPU and TensorRT")
    model = read(REFERENCE, features=read_manifest(REFERENCE).features)
    folder = build(model, Settings(level=1, buckets=(1, 64, 256), lengths=lengths), tmp_path)
    runner = module.TensorRTRunner.load(folder, features=model.manifest.features)
    assert runner.plain_buckets == ()
    for _ in range(2):  # another worker, when the first is gone
        segment = Segment(model.manifest, 1024, 2)
        ours = registered(runner, segment)
        assert len(ours.slots) == 2 * 3 * max(1, len(lengths))
        for n, length in itertools.product((1, 2, 63, 64, 65, 255, 256), (16, 32)):
            batches = [put(segment, at, n, n + at, length=length) for at in (0, 1)]
            before = staged(runner)
            for ticket in [runner.launch_at(ours, at, n) for at in (0, 1)]:
                runner.finish(ticket)
            assert staged(runner) == before, "nothing was copied"
            for at, batch in enumerate(batches):
                assert_equal(taken(segment, at, n), runner.infer(*batch))
        runner.unregister(ours)
        segment.close()
    runner.close()


@pytest.mark.gpu
def test_a_worker_that_leaves_is_let_go_of_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("engines.tensorrt.runner", reason="needs an NVIDIA GPU and TensorRT")
    folder = build(small_models.artifact(), Settings(level=0, buckets=(256,)), tmp_path)
    runner = module.TensorRTRunner.load(folder, features=small_models.FINGERPRINT)
    for _ in range(3):
        with monkeypatch.context() as once:
            leave_with_a_batch_under_way(runner, 1024, 200, once)
    runner.close()
