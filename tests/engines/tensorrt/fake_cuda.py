"""A CUDA that works on host memory: copies copy, graphs replay what was recorded, and nothing is done until waited for.

Stands in for `cuda.bindings.runtime`, whose names and results it takes: `test_names.py` holds the names against the
real ones. `fail` makes one call fail. Copies may touch what was allocated or page-locked, and nothing else.
"""

from __future__ import annotations

import ctypes
import enum
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_NAMES = json.loads((Path(__file__).parent / "names.json").read_text())
_ERRORS = next(names["cudaError_t"] for version, names in _NAMES.items() if version.startswith("cuda"))
Status = enum.IntEnum(  # type: ignore[misc]  # members known at run time
    "Status", {name: 0 if name == "cudaSuccess" else number for number, name in enumerate(_ERRORS, 1)}
)
OK: Any = Status["cudaSuccess"]


Work = Callable[[], object]


class FakeCuda:
    """The functions and constants that the package uses, and one stream."""

    cudaError_t = Status  # noqa: N815  CUDA's own names
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815
    cudaStreamNonBlocking = cudaHostAllocPortable = cudaEventBlockingSync = 1  # noqa: N815
    cudaEventDisableTiming = 2  # noqa: N815
    cudaEventRecordExternal = 1  # noqa: N815

    def __init__(self) -> None:
        self.fail: dict[str, str] = {}
        self.last_error = OK
        self.queue: list[Work] = []
        self.recording: list[Work] | None = None
        self.graphs: dict[int, list[Work]] = {}
        self.memory: dict[int, Any] = {}
        self.registered: dict[int, int] = {}  # bytes by address
        self.launched = 0
        self.events = self.instantiated = 0
        self._markers: dict[int, Work] = {}
        self.waited: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        """Calls without an effect here: most of those that free and destroy."""
        if not name.startswith("cuda"):
            raise AttributeError(name)
        return lambda *_: (self._status(name),)

    def do(self, work: Work) -> None:
        """Put work on the stream, or record it."""
        (self.queue if self.recording is None else self.recording).append(work)

    def catch_up(self, until: Work | None = None) -> None:
        """Do what is on the stream, to the last piece that equals `until`, or all of it."""
        last = max((i for i, work in enumerate(self.queue) if until in (None, work)), default=-1)
        due, self.queue = self.queue[: last + 1], self.queue[last + 1 :]
        for work in due:
            work()

    def cudaGetErrorName(self, code: Any) -> tuple[Any, bytes]:  # noqa: N802
        return OK, code.name.encode()

    def cudaGetErrorString(self, code: Any) -> tuple[Any, bytes]:  # noqa: N802
        return OK, b"it broke"

    def cudaGetLastError(self) -> tuple[Any]:  # noqa: N802
        last, self.last_error = self.last_error, OK
        return (last,)

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
        self.events += 1
        return OK, 1000 * flags + self.events

    def cudaHostAlloc(self, size: int, _: int) -> tuple[Any, int]:  # noqa: N802
        return self._allocate(size)

    def cudaMalloc(self, size: int) -> tuple[Any, int]:  # noqa: N802
        return self._allocate(size)

    def cudaHostRegister(self, address: int, size: int, _: int) -> tuple[Any]:  # noqa: N802
        status = self._status("cudaHostRegister")
        if status == OK:
            self.registered[address] = size
        return (status,)

    def cudaHostUnregister(self, address: int) -> tuple[Any]:  # noqa: N802
        assert not self.queue, "the GPU is at work, and may be at work there"
        del self.registered[address]
        return (OK,)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, *_: Any) -> tuple[Any]:  # noqa: N802
        return self.cudaMemcpy2DAsync(to, size, source, size, size, 1)

    def cudaMemcpy2DAsync(  # noqa: N802
        self, to: int, to_pitch: int, source: int, pitch: int, width: int, height: int, *_: Any
    ) -> tuple[Any]:
        def copy() -> None:
            self._reach(to, to_pitch * height)
            self._reach(source, pitch * (height - 1) + width)
            for row in range(height):
                ctypes.memmove(to + row * to_pitch, source + row * pitch, width)

        self.do(copy)
        return (self._status("cudaMemcpyAsync"),)

    def cudaEventRecord(self, event: int, _: int) -> tuple[Any]:  # noqa: N802
        self.do(self._happened(event))
        return (self._status("cudaEventRecord"),)

    def cudaEventRecordWithFlags(self, event: int, stream: int, _: int) -> tuple[Any]:  # noqa: N802
        if self.recording is None:
            return (Status["cudaErrorInvalidValue"],)
        if (status := self._status("cudaEventRecordWithFlags")) != OK:
            return (status,)
        return self.cudaEventRecord(event, stream)

    def cudaEventSynchronize(self, event: int) -> tuple[Any]:  # noqa: N802
        assert event in self._markers, "the event was destroyed, or never recorded"
        self.waited.append("sleep" if (event // 1000) & self.cudaEventBlockingSync else "spin")
        self.catch_up(self._happened(event))
        return (self._status("cudaEventSynchronize"),)

    def cudaEventDestroy(self, event: int) -> tuple[Any]:  # noqa: N802
        self._markers.pop(event, None)
        return (OK,)

    def cudaStreamSynchronize(self, _: int) -> tuple[Any]:  # noqa: N802
        self.catch_up()
        return (self._status("cudaStreamSynchronize"),)

    def cudaStreamBeginCapture(self, *_: Any) -> tuple[Any]:  # noqa: N802
        self.recording = []
        return (OK,)

    def cudaStreamEndCapture(self, _: int) -> tuple[Any, Any]:  # noqa: N802
        work, self.recording = self.recording, None
        return self._status("cudaStreamEndCapture"), work

    def cudaGraphInstantiate(self, work: Any, _: int) -> tuple[Any, int]:  # noqa: N802
        self.instantiated += 1
        self.graphs[self.instantiated] = work
        return OK, self.instantiated

    def cudaGraphLaunch(self, graph: int, _: int) -> tuple[Any]:  # noqa: N802
        self.launched += 1
        self.queue += self.graphs[graph]
        return (self._status("cudaGraphLaunch"),)

    def cudaGraphExecDestroy(self, graph: int) -> tuple[Any]:  # noqa: N802
        assert not self.queue, "the GPU is at work, and may be at work on that"
        del self.graphs[graph]
        return (OK,)

    def _happened(self, event: int) -> Work:
        """What is put on the stream when an event is recorded."""
        return self._markers.setdefault(event, partial(int, event))

    def _reach(self, address: int, size: int) -> None:
        known = {**{begin: len(buffer) for begin, buffer in self.memory.items()}, **self.registered}
        assert any(begin <= address and address + size <= begin + held for begin, held in known.items()), (
            "the GPU reaches for memory that is neither its own nor page-locked"
        )

    def _allocate(self, size: int) -> tuple[Any, int]:
        buffer = (ctypes.c_uint8 * (size + 256))()
        address = -(-ctypes.addressof(buffer) // 256) * 256
        self.memory[address] = buffer
        return self._status("cudaMalloc"), address

    def _status(self, name: str) -> Any:
        status = Status[self.fail.get(name, "cudaSuccess")]
        if status != OK:
            self.last_error = status
        return status
