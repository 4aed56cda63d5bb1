"""The runner's logic on the bindings' own classes, autospecced, and a CUDA that works on host memory."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import numpy as np
import pytest

from engines.model import ModelError
from engines.tensorrt.plan import Settings
from tests.engines.tensorrt.fake_cuda import FakeCuda
from tests.engines.tensorrt.stage import BUCKETS, GPU, Stage, rows


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


def test_a_recorded_batch_is_one_call_and_the_wait_for_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.perf_counter", float)  # no batch is slow
    runner, calls = stage.load(), []
    for name in dir(FakeCuda):
        if name.startswith("cuda") and callable(call := getattr(stage.cuda, name)):

            def counted(*given: Any, name: str = name, call: Any = call) -> Any:
                calls.append(name)
                return call(*given)

            monkeypatch.setattr(stage.cuda, name, counted)
    assert len(runner.infer(*rows(8)).value) == 8
    assert calls == ["cudaGraphLaunch", "cudaEventSynchronize"]


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
