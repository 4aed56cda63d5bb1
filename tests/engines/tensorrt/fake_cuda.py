"""A CUDA that works on host memory, one call after the other: copies copy, graphs replay what was recorded.

Stands in for `cuda.bindings.runtime`, whose names and results it takes: `test_names.py` holds the names against the
real ones. `fail` makes one call fail.
"""

from __future__ import annotations

import ctypes
import enum
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_NAMES = json.loads((Path(__file__).parent / "names.json").read_text())
_ERRORS = next(names["cudaError_t"] for version, names in _NAMES.items() if version.startswith("cuda"))
Status = enum.IntEnum(  # type: ignore[misc]  # members known at run time
    "Status", {name: 0 if name == "cudaSuccess" else number for number, name in enumerate(_ERRORS, 1)}
)
OK: Any = Status["cudaSuccess"]


class FakeCuda:
    """The functions and constants that the package uses."""

    cudaError_t = Status  # noqa: N815  CUDA's own names
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815
    cudaStreamNonBlocking = cudaHostAllocPortable = cudaEventBlockingSync = 1  # noqa: N815
    cudaEventDisableTiming = 2  # noqa: N815

    def __init__(self) -> None:
        self.fail: dict[str, str] = {}
        self.recording: list[Callable[[], object]] | None = None
        self.graphs: dict[int, list[Callable[[], object]]] = {}
        self.memory: dict[int, Any] = {}
        self.launched = 0
        self.waited: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        """Calls without an effect here: synchronising, destroying, recording events."""
        if not name.startswith("cuda"):
            raise AttributeError(name)
        return lambda *_: (self._status(name),)

    def do(self, work: Callable[[], object]) -> None:
        """Run work given to the stream, or record it."""
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def cudaGetErrorName(self, code: Any) -> tuple[Any, bytes]:  # noqa: N802
        return OK, code.name.encode()

    def cudaGetErrorString(self, code: Any) -> tuple[Any, bytes]:  # noqa: N802
        return OK, b"it broke"

    def cudaGetDeviceCount(self) -> tuple[Any, int]:  # noqa: N802
        return self._status("cudaGetDeviceCount"), 1

    def cudaGetDeviceProperties(self, _: int) -> tuple[Any, Any]:  # noqa: N802
        return OK, SimpleNamespace(
            name=b"Fake GPU", major=9, minor=0, multiProcessorCount=1, totalGlobalMem=2**30, l2CacheSize=2**20
        )

    def cudaDeviceGetStreamPriorityRange(self) -> tuple[Any, int, int]:  # noqa: N802
        return OK, 0, -5

    def cudaStreamCreateWithPriority(self, *_: int) -> tuple[Any, int]:  # noqa: N802
        return OK, 77

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, int]:  # noqa: N802
        return OK, 88 + flags

    def cudaHostAlloc(self, size: int, _: int) -> tuple[Any, int]:  # noqa: N802
        return self._allocate(size)

    def cudaMalloc(self, size: int) -> tuple[Any, int]:  # noqa: N802
        return self._allocate(size)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, *_: Any) -> tuple[Any]:  # noqa: N802
        self.do(lambda: ctypes.memmove(to, source, size))
        return (self._status("cudaMemcpyAsync"),)

    def cudaEventSynchronize(self, event: int) -> tuple[Any]:  # noqa: N802
        self.waited.append("sleep" if (event - 88) & self.cudaEventBlockingSync else "spin")
        return (self._status("cudaEventSynchronize"),)

    def cudaStreamBeginCapture(self, *_: Any) -> tuple[Any]:  # noqa: N802
        self.recording = []
        return (OK,)

    def cudaStreamEndCapture(self, _: int) -> tuple[Any, Any]:  # noqa: N802
        work, self.recording = self.recording, None
        return self._status("cudaStreamEndCapture"), work

    def cudaGraphInstantiate(self, work: Any, _: int) -> tuple[Any, int]:  # noqa: N802
        self.graphs[len(self.graphs) + 1] = work
        return OK, len(self.graphs)

    def cudaGraphLaunch(self, graph: int, _: int) -> tuple[Any]:  # noqa: N802
        self.launched += 1
        for work in self.graphs[graph]:
            work()
        return (self._status("cudaGraphLaunch"),)

    def _allocate(self, size: int) -> tuple[Any, int]:
        buffer = (ctypes.c_uint8 * (size + 256))()
        address = -(-ctypes.addressof(buffer) // 256) * 256
        self.memory[address] = buffer
        return self._status("cudaMalloc"), address

    def _status(self, name: str) -> Any:
        return Status[self.fail.get(name, "cudaSuccess")]
