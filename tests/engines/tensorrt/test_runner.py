"""The runner's logic on the bindings' own classes, autospecced, and a CUDA that works on host memory."""

from __future__ import annotations

import ctypes
import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from engines.cpu import OnnxModel
from engines.model import ModelError
from engines.tensorrt.plan import Engine, Facts, Gpu, Known, Settings
from tests.engines import small_models
from tests.engines.tensorrt import bindings
from tests.engines.tensorrt.fake_cuda import FakeCuda
from tests.services.missing import require

GPU = Gpu(name="Fake GPU", capability="9.0", multiprocessors=1, memory_gib=1, l2_mib=1)
BUCKETS = (1, 4, 8)
MODULES = ("log", "versions", "cuda", "arena", "graph", "slot", "runner")


class Stage:
    """The package loaded onto fakes, and contexts that score with ONNX Runtime."""

    def __init__(self, trt: ModuleType, cuda: FakeCuda, runner: ModuleType) -> None:
        self.trt = trt
        self.cuda = cuda
        self.module = runner
        self.reference = OnnxModel(small_models.artifact())
        self.break_context: Callable[[Any], None] = lambda context: None
        self.plan_refused = False

    def engine(self, **facts: Any) -> Engine:
        features, history = rows(16)
        history[8:, 2:] = 0
        made = Facts(
            key="ab" * 32,
            plan_sha256="",
            onnx_sha256="",
            tensorrt=bindings.VERSION,
            gpu=GPU,
            settings=Settings(buckets=BUCKETS),
            driver="13.0",
            created="",
            build_s=1.0,
            plan_bytes=4,
        )
        known = Known(features, history, self.reference.infer(features, history))
        return Engine(small_models.artifact(), msgspec.structs.replace(made, **facts), b"plan", known)

    def load(self, engine: Engine | None = None, **options: Any) -> Any:
        plan = mock.create_autospec(self.trt.ICudaEngine, instance=True)
        plan.create_execution_context.side_effect = self._context
        runtime = mock.create_autospec(self.trt.Runtime, instance=True)
        runtime.deserialize_cuda_engine.return_value = None if self.plan_refused else plan
        with mock.patch.object(self.module, "trt", SimpleNamespace(Runtime=lambda _: runtime)):
            return self.module.TensorRTRunner(engine or self.engine(), **options)

    def _context(self) -> Any:
        context = mock.create_autospec(self.trt.IExecutionContext, instance=True)
        shapes: dict[str, tuple[int, ...]] = {}
        addresses: dict[str, int] = {}

        def execute(_: int) -> bool:
            now = dict(addresses)
            self.cuda.do(lambda: self._score(shapes, now))
            return True

        context.set_optimization_profile_async.return_value = True
        context.set_input_shape.side_effect = lambda name, shape: shapes.update({name: shape}) or True
        context.get_tensor_shape.side_effect = lambda name: (
            (shapes["features"][0], 2) if name == "p_tip" else shapes["features"][:1]
        )
        context.set_tensor_address.side_effect = lambda name, address: addresses.update({name: address}) or True
        context.execute_async_v3.side_effect = execute
        self.break_context(context)
        return context

    def _score(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        given = np.zeros((shapes["features"][0], *small_models.HISTORY), np.float32)
        given[:, : shapes["history"][1]] = at(addresses["history"], shapes["history"])
        p_tip, value = self.reference.infer(at(addresses["features"], shapes["features"]).copy(), given)
        at(addresses["p_tip"], p_tip.shape)[:] = p_tip
        at(addresses["value"], value.shape)[:] = value


def at(address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)


def rows(n: int, seed: int = 1) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    features = rng.exponential(1.0, (n, len(small_models.COLUMNS))).astype(np.float32)
    return features, rng.exponential(1.0, (n, *small_models.HISTORY)).astype(np.float32)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    require(bindings.missing())
    trt, cuda = bindings.load(), FakeCuda()
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(runtime=cuda))
    names = [f"engines.tensorrt.{name}" for name in MODULES]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield Stage(trt, cuda, importlib.import_module("engines.tensorrt.runner"))
    for name in names:
        sys.modules.pop(name, None)


def test_scores_are_the_models_at_every_size(stage: Stage) -> None:
    runner = stage.load()
    launched = stage.cuda.launched
    for n in range(1, BUCKETS[-1] + 1):
        expected, found = stage.reference.infer(*rows(n, n)), runner.infer(*rows(n, n))
        np.testing.assert_array_equal(found.p_tip, expected.p_tip)
        np.testing.assert_array_equal(found.value, expected.value)
    assert runner.plain_buckets == ()
    assert stage.cuda.launched == launched + BUCKETS[-1]  # one graph launch a batch
    runner.close()
    with pytest.raises(ModelError, match="closed"):
        runner.infer(*rows(1))


def test_two_batches_are_in_flight_and_no_third(stage: Stage) -> None:
    runner = stage.load()
    batches = [rows(8, seed) for seed in range(5)]
    tickets = [runner.launch(*batches[0])]
    for i in range(1, 5):
        tickets.append(runner.launch(*batches[i]))
        with pytest.raises(ModelError, match="2 batches are in flight"):
            runner.launch(*batches[0])
        found = runner.collect(tickets[i - 1])
        np.testing.assert_array_equal(found.p_tip, stage.reference.infer(*batches[i - 1]).p_tip)


def test_a_short_history_takes_the_shorter_graph(stage: Stage) -> None:
    runner = stage.load(stage.engine(settings=Settings(buckets=BUCKETS, lengths=(2, 4))))
    features, history = rows(3)
    np.testing.assert_array_equal(runner.infer(features, history).p_tip, stage.reference.infer(features, history).p_tip)
    history[:, 2:] = 0
    ticket = runner.launch(features, history)
    assert ticket.slot.length == 2
    found = runner.collect(ticket)
    np.testing.assert_array_equal(found.p_tip, stage.reference.infer(features, history).p_tip)


@pytest.mark.parametrize(
    "method", ["set_optimization_profile_async", "set_input_shape", "set_tensor_address", "execute_async_v3"]
)
def test_an_answer_of_false_is_an_error(stage: Stage, method: str) -> None:
    def refuse(context: Any) -> None:
        getattr(context, method).side_effect = None
        getattr(context, method).return_value = False

    stage.break_context = refuse
    with pytest.raises(ModelError, match="TensorRT refused"):
        stage.load()


def test_outputs_of_another_shape_are_refused(stage: Stage) -> None:
    def widen(context: Any) -> None:
        context.get_tensor_shape.side_effect = lambda name: (1, 3)

    stage.break_context = widen
    with pytest.raises(ModelError, match=r"gives `p_tip` as \(1, 3\) for bucket 1.* wants \(1, 2\)"):
        stage.load()


def test_a_bucket_that_cannot_be_recorded_runs_plain(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.cuda.fail["cudaStreamEndCapture"] = "cudaErrorStreamCaptureInvalidated"
    runner = stage.load()
    assert runner.plain_buckets == BUCKETS
    assert "runs without a CUDA graph: cudaStreamEndCapture" in caplog.text
    assert stage.cuda.recording is None
    np.testing.assert_array_equal(runner.infer(*rows(3)).p_tip, stage.reference.infer(*rows(3)).p_tip)


def test_a_refusal_while_recording_ends_the_recording(stage: Stage) -> None:
    def refuse(context: Any) -> None:
        run = context.execute_async_v3.side_effect
        context.execute_async_v3.side_effect = lambda stream: stage.cuda.recording is None and run(stream)

    stage.break_context = refuse
    runner = stage.load()
    assert runner.plain_buckets == BUCKETS
    assert stage.cuda.recording is None
    assert len(runner.infer(*rows(5)).value) == 5


def test_a_graph_that_answers_otherwise_is_not_used(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.cuda.cudaGraphLaunch = lambda *_: (FakeCuda.cudaError_t["cudaSuccess"],)  # type: ignore[method-assign]
    assert stage.load().plain_buckets == BUCKETS
    assert "answers differ from the plain launch's" in caplog.text


def test_a_broken_plan_is_found_at_start_up(stage: Stage) -> None:
    engine = stage.engine()
    known = engine.known._replace(scores=engine.known.scores._replace(p_tip=engine.known.scores.p_tip + 0.1))
    with pytest.raises(ModelError, match=r"is 0\.1 off the stored probabilities in bucket 1"):
        stage.load(engine._replace(known=known))


def test_a_plan_that_does_not_deserialise_is_refused_in_words(stage: Stage) -> None:
    stage.plan_refused = True
    with pytest.raises(ModelError, match="refused the plan: it gave no reason"):
        stage.load()


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"tensorrt": "8.6.1"}, r"built by TensorRT 8\.6\.1, and here is 11\.4\.0\.106"),
        ({"gpu": msgspec.structs.replace(GPU, name="Other")}, r"built on Other \(1 GiB, sm_90\), and here is Fake GPU"),
    ],
)
def test_an_engine_for_something_else_is_refused_in_words(stage: Stage, facts: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        stage.load(stage.engine(**facts))


def test_no_gpu_is_said_in_words(stage: Stage) -> None:
    stage.cuda.fail["cudaGetDeviceCount"] = "cudaErrorNoDevice"
    with pytest.raises(ModelError, match=r"no NVIDIA GPU .*cudaErrorNoDevice.*serve the model on the CPU"):
        stage.load()


@pytest.mark.parametrize(("code", "dead"), [("cudaErrorIllegalAddress", True), ("cudaErrorInvalidValue", False)])
@pytest.mark.parametrize("call", ["cudaGraphLaunch", "cudaEventSynchronize"])
def test_only_a_dead_context_ends_the_process(stage: Stage, call: str, code: str, dead: bool) -> None:
    reasons: list[str] = []
    runner = stage.load(lost=reasons.append)
    stage.cuda.fail[call] = code
    with pytest.raises(ModelError, match=code):
        runner.infer(*rows(2))
    assert bool(reasons) == dead
    stage.cuda.fail.clear()
    assert len(runner.infer(*rows(2)).value) == 2


def test_a_slow_batch_is_waited_for_asleep(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = stage.load()
    runner.infer(*rows(2))
    assert stage.cuda.waited[-1] == "spin"
    now = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(now)))
    for _ in range(4):
        runner.infer(*rows(2))
    assert stage.cuda.waited[-1] == "sleep"
