"""The builder's process on fakes: the bindings' own classes, autospecced, and a CUDA that works on host memory.

python -m tests.engines.tensorrt.fake_builder JSON     what is to go wrong, as `Script`; the request on standard input
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import msgspec

from engines import files
from tests.engines.tensorrt import bindings
from tests.engines.tensorrt.fake_cuda import FakeCuda

PLAN = b"a plan that nothing can load"


class Script(msgspec.Struct):
    """What this run does otherwise."""

    log: str = ""
    """File that gets a line whenever kernels are compared."""
    seconds: float = 0.0
    """Time that comparing kernels takes."""
    dies: bool = False
    """Killed while it compares kernels."""
    gpu: bool = True
    no_builder: bool = False
    unreadable: bool = False
    """The parser knows an operator not."""
    plan: bool = True
    """Whether a plan comes out."""
    full_disk: bool = False
    largest_file: int = 0
    """Bytes beyond which no file may grow, as on a disk that fills up; 0 for no bound."""
    version: str = ""
    """Of TensorRT."""
    probe: str = "passes"
    """passes, refuses, dies, or takes the builder with it."""


class Cuda(FakeCuda):
    """With what the builder asks besides."""

    def cudaDriverGetVersion(self) -> tuple[Any, int]:  # noqa: N802  CUDA's own name
        return self.cudaError_t["cudaSuccess"], 13_000


def stage(script: Script) -> ModuleType:
    """Load the builder's module onto the fakes."""
    trt, cuda = bindings.load(), Cuda()
    if not script.gpu:
        cuda.fail["cudaGetDeviceCount"] = "cudaErrorNoDevice"
    if script.version:
        trt.__version__ = script.version  # type: ignore[attr-defined]
    sys.modules["tensorrt"] = trt
    sys.modules["cuda"] = ModuleType("cuda")
    sys.modules["cuda.bindings"] = SimpleNamespace(runtime=cuda)  # type: ignore[assignment]
    from engines.tensorrt import builder

    module: Any = builder
    module.trt = _trt(trt, script)
    module.probe = lambda engine: _probe(script, engine)
    if script.full_disk:
        module.files = SimpleNamespace(**{**vars(files), "write": lambda path, content: files.write(_FULL, content)})
    return builder


_FULL = Path("/dev/full")


def _trt(trt: Any, script: Script) -> SimpleNamespace:
    """Return the module's names that the builder uses, with classes that answer."""
    names = {name: getattr(trt, name) for name in ("MemoryPoolType", "TacticSource", "BuilderFlag")}

    def builder(_: object) -> Any:
        if script.no_builder:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        made = mock.create_autospec(trt.Builder, instance=True)
        made.create_network.return_value = _network(trt)
        made.create_builder_config.return_value = _config(trt)
        made.build_serialized_network.side_effect = lambda network, config: _compare(script)
        return made

    def parser(_network: object, _log: object) -> Any:
        made = mock.create_autospec(trt.OnnxParser, instance=True)
        made.parse.return_value = not script.unreadable
        made.num_errors = 1
        error = mock.create_autospec(trt.ParserError, instance=True)
        error.node.return_value = 3
        error.desc.return_value = "No importer registered for op: Frobnicate"
        made.get_error.return_value = error
        return made

    return SimpleNamespace(Builder=builder, OnnxParser=parser, **names)


def _network(trt: Any) -> Any:
    network = mock.create_autospec(trt.INetworkDefinition, instance=True)
    ports = []
    for name, shape in (("features", (-1, 5)), ("history", (-1, 4, 3))):
        port = mock.create_autospec(trt.ITensor, instance=True)
        port.name, port.shape = name, shape
        ports.append(port)
    network.num_inputs, network.num_layers = 2, 0
    network.get_input.side_effect = lambda i: ports[i]
    return network


def _config(trt: Any) -> Any:
    config = mock.create_autospec(trt.IBuilderConfig, instance=True)
    config.add_optimization_profile.return_value = 0
    cache = mock.create_autospec(trt.ITimingCache, instance=True)
    cache.serialize.return_value = b"what was measured"
    config.get_timing_cache.return_value = cache
    return config


def _compare(script: Script) -> bytes | None:
    if script.log:
        with Path(script.log).open("a") as file:
            file.write(f"{os.getpid()}\n")
    if script.dies:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(script.seconds)
    if script.largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (script.largest_file,) * 2)
    return PLAN if script.plan else None


def _probe(script: Script, engine: Any) -> None:
    from engines.tensorrt.probe import probe

    if script.probe == "takes the builder with it":
        os.kill(os.getpid(), signal.SIGKILL)
    said = {"passes": '{"probed":{"load_s":0.1}}', "refuses": '{"error":"It is off the stored probabilities."}'}
    child = f"import os; print({said.get(script.probe, '')!r})"
    if script.probe == "dies":
        child += "; os.kill(os.getpid(), 11)"
    probe(engine, child=(sys.executable, "-c", child))


if __name__ == "__main__":
    sys.exit(stage(msgspec.json.decode(sys.argv[1], type=Script)).main())
