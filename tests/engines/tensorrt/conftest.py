"""The runner without a GPU, for its tests."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest

from tests.engines.tensorrt import bindings
from tests.engines.tensorrt.fake_cuda import FakeCuda
from tests.engines.tensorrt.stage import MODULES, Stage
from tests.services.missing import require


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
