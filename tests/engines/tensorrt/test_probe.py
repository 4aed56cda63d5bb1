"""A plan is loaded by a process that may die of it: whatever that does, the answer is a sentence."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from engines.model import ModelError
from engines.tensorrt.build import build
from engines.tensorrt.plan import Engine, Settings, read_engine
from engines.tensorrt.probe import Probed, probe
from tests.engines import small_engines, small_models

NO_GPU = importlib.util.find_spec("tensorrt") is None


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return small_engines.engine(tmp_path, Settings(precision="fp16", level=5, buckets=(1, 8)))


def ask(engine: Engine, script: str, timeout_s: float = 20.0) -> Probed:
    return probe(engine, timeout_s=timeout_s, child=(sys.executable, "-c", script))


def test_an_engine_that_loads_is_told_of(engine: Engine) -> None:
    said = '{"probed":{"load_s":1.5,"plain_buckets":[8]}}'
    assert ask(engine, f"print('noise'); print({said!r})") == Probed(1.5, (8,))


def test_the_child_gets_the_very_bytes_that_were_checked(engine: Engine) -> None:
    script = (
        "import msgspec, sys; from engines.tensorrt.plan import unpack_known\n"
        "r = msgspec.msgpack.decode(sys.stdin.buffer.read())\n"
        "assert r['plan'] == b'a plan' and r['facts']['settings']['precision'] == 'fp16'\n"
        "assert unpack_known(r['known']).features.shape == (4, 5) and r['manifest']['name'] == 'small'\n"
        'print(\'{"probed":{"load_s":0}}\')'
    )
    assert ask(engine, script) == Probed(0)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            "import os; os.kill(os.getpid(), 11)",
            r"\(fp16, level 5\) may not serve: .* signal 11 \(SIGSEGV\).*--level 4 or lower",
        ),
        ("import sys; sys.exit('lost its GPU')", r"ended with status 1 \(last words: lost its GPU\)"),
        ('print(\'{"error": "built on another GPU"}\')', "built on another GPU"),
        ("pass", "ended with status 0"),
        ('import os; print(\'{"probed":{"load_s":1}}\', flush=True); os.kill(os.getpid(), 6)', "SIGABRT"),
        ("raise ModuleNotFoundError(\"No module named 'tensorrt'\")", "TensorRT engines need tensorrt"),
    ],
    ids=["crashes", "lost", "refuses", "says nothing", "dies at the end", "no TensorRT"],
)
def test_one_that_does_not_may_not_serve(engine: Engine, script: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        ask(engine, script)


def test_one_that_hangs_is_stopped(engine: Engine) -> None:
    with pytest.raises(ModelError, match=r"was not loaded and tested within 1 s, so it may not serve"):
        ask(engine, "import time; time.sleep(60)", timeout_s=1.0)


@pytest.mark.skipif(not NO_GPU, reason="TensorRT is here")
def test_without_tensorrt_the_real_child_says_what_to_install(engine: Engine) -> None:
    with pytest.raises(ModelError, match=r"TensorRT engines need .* pip install 'tipstream\[gpu\]'"):
        probe(engine)


@pytest.mark.gpu
def test_a_real_engine_passes_and_a_broken_one_does_not(tmp_path: Path) -> None:
    pytest.importorskip("engines.tensorrt.runner", reason="needs an NVIDIA GPU and TensorRT")
    folder = build(small_models.artifact(), Settings(buckets=(1, 8), level=0), tmp_path)
    built = read_engine(folder, features=small_models.FINGERPRINT)
    assert probe(built).plain_buckets == ()
    with pytest.raises(ModelError):
        probe(built._replace(plan=built.plan[: len(built.plan) // 2]))
    known = built.known
    other = known._replace(scores=known.scores._replace(p_tip=known.scores.p_tip + 0.1))
    with pytest.raises(ModelError, match="off the stored probabilities"):
        probe(built._replace(known=other))
