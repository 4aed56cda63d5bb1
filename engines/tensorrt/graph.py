"""CUDA graphs: one batch's copies and kernels recorded once, launched by one call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from cuda.bindings import runtime as rt

from engines.tensorrt.cuda import SUCCESS, CudaError, Stream, check

# Calls that another thread makes during a capture can spoil it even in thread-local mode: one capture at a time.
_CAPTURE: Final = threading.Lock()


def capture(stream: Stream, work: Callable[[], None]) -> int:
    """Record what `work` queues on `stream` and return the executable graph's handle; raises ModelError if it cannot.

    The graph is good for the addresses and shapes of now. After a failure the stream is usable again.
    """
    with _CAPTURE:
        stream.synchronize()
        check(
            "cudaStreamBeginCapture",
            rt.cudaStreamBeginCapture(stream.handle, rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal),
        )
        try:
            work()
        except BaseException:
            status, graph = rt.cudaStreamEndCapture(stream.handle)  # or the stream stays in capture mode
            if status == SUCCESS:
                rt.cudaGraphDestroy(graph)
            rt.cudaGetLastError()  # what the capture left behind would be blamed on the next call
            raise
        graph = check("cudaStreamEndCapture", rt.cudaStreamEndCapture(stream.handle))
        try:
            executable = int(check("cudaGraphInstantiate", rt.cudaGraphInstantiate(graph, 0)))
        finally:
            rt.cudaGraphDestroy(graph)
        try:
            check("cudaGraphUpload", rt.cudaGraphUpload(executable, stream.handle))
            stream.synchronize()
        except CudaError:
            rt.cudaGraphExecDestroy(executable)
            raise
        return executable
