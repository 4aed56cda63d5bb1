"""One place for a batch of one bucket: its memory, its event, and its CUDA graph if it has one."""

from __future__ import annotations

import time
from typing import Final, Self

import tensorrt as trt
from cuda.bindings import runtime as rt

from engines.manifest import Manifest
from engines.model import ModelError
from engines.segment import Place
from engines.tensorrt.arena import Arena
from engines.tensorrt.cuda import SUCCESS, CudaError, Stream, check
from engines.tensorrt.graph import capture
from engines.tensorrt.log import LOG
from engines.tensorrt.rows import Rows

_SPIN_EVENT: Final = rt.cudaEventDisableTiming
_SLEEP_EVENT: Final = rt.cudaEventDisableTiming | rt.cudaEventBlockingSync
#: A batch that takes longer is waited for asleep: waking up costs some tens of microseconds, spinning a whole core.
_SPIN_AT_MOST_S: Final = 500e-6
_FIRST_GUESS_S: Final = 200e-6
_LEARNING_RATE: Final = 0.1


def bind(
    context: trt.IExecutionContext, stream: Stream, profile: int, batch: int, length: int, manifest: Manifest
) -> None:
    """Give a context its profile and shapes for good; raises ModelError if the plan has others."""
    what = f"bucket {batch}, history {length}"
    _must(context.set_optimization_profile_async(profile, stream.handle), f"profile {profile} for {what}")
    stream.synchronize()  # undefined otherwise
    inputs = {"features": (batch, manifest.n_features), "history": (batch, length, manifest.history[1])}
    for name, shape in inputs.items():
        _must(context.set_input_shape(name, shape), f"shape {shape} of `{name}` for {what}")
    outputs = {"p_tip": (batch, len(manifest.horizons_s)), "value": (batch,)}
    for name, shape in outputs.items():
        found = tuple(context.get_tensor_shape(name))
        if found != shape:
            raise ModelError(
                f"The plan gives `{name}` as {found} for {what}, but the manifest wants {shape}. Rebuild it."
            )


class Slot:
    """Arrays to write a batch to and to read its scores from, and the launch between them.

    `features` (B, F), `history` (B, L, C), `p_tip` (B, H), `value` (B,), all float32, are page-locked memory. Slots of
    one context share its working memory, and those made by `over` the device's memory for rows too: they may be in
    flight together because one stream runs them in order.
    """

    def __init__(
        self,
        context: trt.IExecutionContext,
        stream: Stream,
        batch: int,
        length: int,
        inputs: Arena | Rows,
        outputs: Arena,
    ) -> None:
        """Take over the memory, with the arrays above; the context has its shapes already. Raises CudaError."""
        self.batch = batch
        self.length = length
        self._expected_s = _FIRST_GUESS_S  # that a batch takes, as learnt
        self._context = context
        self._stream = stream
        self._graph = 0
        self._inputs = inputs
        self._outputs = outputs
        self.features = self._inputs.host["features"]
        self.history = self._inputs.host["history"]
        self.p_tip = self._outputs.host["p_tip"]
        self.value = self._outputs.host["value"]
        self._spin = int(check("cudaEventCreateWithFlags", rt.cudaEventCreateWithFlags(_SPIN_EVENT)))
        self._sleep = int(check("cudaEventCreateWithFlags", rt.cudaEventCreateWithFlags(_SLEEP_EVENT)))
        self._event = self._sleep

    @classmethod
    def staging(
        cls, context: trt.IExecutionContext, stream: Stream, batch: int, length: int, manifest: Manifest
    ) -> Self:
        """A slot with memory of its own, to which rows are copied first; raises CudaError."""
        inputs = Arena.allocate(
            {"features": (batch, manifest.n_features), "history": (batch, length, manifest.history[1])}
        )
        outputs = Arena.allocate({"p_tip": (batch, len(manifest.horizons_s)), "value": (batch,)})
        return cls(context, stream, batch, length, inputs, outputs)

    def over(self, place: Place) -> Slot:
        """A slot that does as this one, but in a page-locked place. Close it before this one; raises CudaError."""
        batch = self.batch
        rows = {"features": place.features[:batch], "history": place.history[:batch, : self.length]}
        outputs = Arena({"p_tip": place.p_tip[:batch], "value": place.value[:batch]})
        return Slot(self._context, self._stream, batch, self.length, Rows(rows, self._inputs.address), outputs)

    @property
    def recorded(self) -> bool:
        """Whether a batch is one graph launch."""
        return self._graph != 0

    def start(self) -> None:
        """Queue copies, kernels and the event; raises ModelError."""
        self._event = self._spin if self._expected_s <= _SPIN_AT_MOST_S else self._sleep
        if self._graph:
            status = rt.cudaGraphLaunch(self._graph, self._stream.handle)[0]
            if status != SUCCESS:
                raise CudaError("cudaGraphLaunch", status)
            if self._event == self._spin:  # which is in the graph
                return
        else:
            self._queue()
        status = rt.cudaEventRecord(self._event, self._stream.handle)[0]
        if status != SUCCESS:
            raise CudaError("cudaEventRecord", status)

    def wait(self, began: float) -> None:
        """Wait until what was started at `began` (perf_counter) is done; raises CudaError.

        One call into CUDA, which spins or sleeps there: a loop of ours would fight for the interpreter's lock with the
        event loop, whose work is what the wait is to be used for.
        """
        status = rt.cudaEventSynchronize(self._event)[0]
        if status != SUCCESS:
            raise CudaError("The batch", status)
        self._expected_s += _LEARNING_RATE * (time.perf_counter() - began - self._expected_s)

    def record(self) -> None:
        """Record the graph that later starts launch; raises ModelError if it cannot be recorded.

        To be launched plainly before: TensorRT defers set-up to the first run of a shape, and that may not be recorded.
        """
        self._graph = capture(self._stream, self._queue_and_mark)

    def forget(self) -> None:
        """Launch plainly from now on."""
        if self._graph:
            rt.cudaGraphExecDestroy(self._graph)
            self._graph = 0

    def close(self) -> None:
        """Free everything; nothing may be in flight."""
        self.forget()
        del self._context, self.features, self.history, self.p_tip, self.value
        rt.cudaEventDestroy(self._spin)
        rt.cudaEventDestroy(self._sleep)
        self._inputs.close()
        self._outputs.close()

    def _queue(self) -> None:
        self._inputs.upload(self._stream.handle)
        for name, address in (*self._inputs.address.items(), *self._outputs.address.items()):
            _must(self._context.set_tensor_address(name, address), f"address of `{name}`")
        _must(self._context.execute_async_v3(self._stream.handle), f"a batch of {self.batch}")
        self._outputs.download(self._stream.handle)

    def _queue_and_mark(self) -> None:
        """Queue all of a batch, the event too: external to the graph, it can be waited for after each launch."""
        self._queue()
        check(
            "cudaEventRecordWithFlags",
            rt.cudaEventRecordWithFlags(self._spin, self._stream.handle, rt.cudaEventRecordExternal),
        )


def _must(accepted: bool, what: str) -> None:
    if not accepted:
        raise ModelError(f"TensorRT refused {what}: {LOG.reason()}. Build the engine again.")
