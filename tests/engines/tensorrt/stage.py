"""The runner on the bindings' own classes, autospecced, and a CUDA that works on host memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import msgspec
import numpy as np
from numpy.typing import NDArray

from engines.cpu import OnnxModel
from engines.tensorrt.plan import Engine, Facts, Gpu, Known, Settings
from tests.engines import small_models
from tests.engines.tensorrt import bindings
from tests.engines.tensorrt.fake_cuda import FakeCuda

GPU = Gpu(name="Fake GPU", capability="9.0", multiprocessors=1, memory_gib=1, l2_mib=1)
BUCKETS = (1, 4, 8)
ALIGNMENT = 256
MODULES = ("log", "versions", "cuda", "arena", "rows", "graph", "slot", "registered", "runner")


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
        context.set_tensor_address.side_effect = lambda name, address: (
            addresses.update({name: address}) or address % ALIGNMENT == 0
        )
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
