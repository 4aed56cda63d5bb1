"""TensorRT on a GPU: for every bucket a context and CUDA graphs, all allocated and recorded before the first batch.

A batch is copied into page-locked memory, one graph launch moves it to the device, scores it and moves the scores back,
and an event in the graph says that this is done. Two batches can be in flight: `launch` the second before `collect` of
the first. Rows in a segment that was registered are not copied: graphs of its places read them, and write the scores,
right there.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, Self

import numpy as np
import tensorrt as trt
from cuda.bindings import runtime as rt
from numpy.typing import NDArray

from engines.ending import end_process
from engines.model import ModelError, Scores, check_inputs, check_scores
from engines.segment import Place, Segment
from engines.tensorrt import versions
from engines.tensorrt.cuda import CudaError, Stream, choose, open_device
from engines.tensorrt.log import LOG
from engines.tensorrt.plan import Engine, read_engine
from engines.tensorrt.registered import Registered
from engines.tensorrt.slot import Slot, bind

log = logging.getLogger(__name__)

#: Batches that may be in flight.
DEPTH: Final = 2
_WARM_UP_RUNS: Final = 20
#: How far a plan may be from the FP32 reference at start-up, on a probability: a plan that is broken is far off. The
#: gate judges what is allowed to serve; this says that it still is what was judged.
_TOLERANCE: Final = {"fp32": 0.005, "fp16": 0.02, "int8": 0.1}
#: Graph and plain launch run the same kernels.
_GRAPH_TOLERANCE: Final = 1e-6


class Ticket(NamedTuple):
    """A batch in flight."""

    slot: Slot
    n: int
    features: NDArray[np.float32]
    history: NDArray[np.float32]
    began: float
    place: Place | None = None
    """Where `finish` is to copy the scores to."""


class TensorRTRunner:
    """A `Model` run by TensorRT, `Pipelined` and `InPlace`. One thread at a time may call it."""

    depth = DEPTH

    def __init__(
        self, engine: Engine, *, graphs: bool = True, lost: Callable[[str], None] = end_process, name: str = "trt"
    ) -> None:
        """Load the plan, allocate, record and test every bucket, warm up; raises ModelError.

        `graphs=False` launches every batch plainly. `lost` is told when the GPU is lost to this process.
        """
        self.manifest = engine.manifest
        self.facts = engine.facts
        self.engine = f"{name}:{engine.facts.key[:8]}"
        settings = engine.facts.settings
        self.buckets = settings.buckets
        self.max_batch = self.buckets[-1]
        self._lost = lost
        self._lengths = settings.lengths or (self.manifest.history[0],)
        self._in_flight = 0
        self._closed = False
        self._slots: list[tuple[tuple[Slot, ...], ...]] = []  # by length, bucket, turn
        self._registered: list[Registered] = []
        sizes = np.searchsorted(self.buckets, np.arange(self.max_batch + 1))
        self._bucket_of: list[int] = sizes.tolist()
        self._turn = 0
        #: Buckets whose recording failed: they launch plainly.
        self.plain_buckets: tuple[int, ...] = ()
        _check_fit(engine)
        self._known = engine.known
        self._stream = Stream()
        try:
            self._set_up(engine.plan, graphs)
        except ModelError:
            self.close()
            raise

    @classmethod
    def load(cls, folder: Path, *, features: str, graphs: bool = True, device: str = "") -> Self:
        """Load an engine's folder for the feature catalogue with fingerprint `features`; raises ModelError.

        `device` is a GPU's number or UUID, or a MIG instance's UUID: the process then sees no other.
        """
        choose(device)
        return cls(read_engine(folder, features=features), graphs=graphs)

    def infer(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Scores:
        """Score one batch; see `Model.infer`."""
        return self.collect(self.launch(features, history))

    def launch(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Ticket:
        """Start one batch, shapes as in `infer`; the arrays may change once this returns. At most `DEPTH` at a time."""
        self._check_room()
        check_inputs(self.manifest, self.max_batch, features, history)
        n = len(features)
        slot = self._fitting(n, history)[self._turn]
        slot.features[:n] = features
        slot.history[:n] = history if slot.length == history.shape[1] else history[:, : slot.length]
        return Ticket(slot, n, features, history, self._start(slot))

    def collect(self, ticket: Ticket) -> Scores:
        """Wait for a launched batch and return its scores. Collect in the order of launching."""
        slot, n = ticket.slot, ticket.n
        self._wait(ticket)
        scores = Scores(slot.p_tip[:n].copy(), slot.value[:n].copy())
        return check_scores(scores, ticket.features, ticket.history)

    def register(self, segment: Segment) -> Registered:
        """See `InPlace.register`; what takes time is left to `prepare`."""
        registered = Registered(segment)
        registered.steps = self._steps(registered)
        self._registered.append(registered)
        return registered

    def prepare(self, registered: Registered) -> bool:
        """See `InPlace.prepare`. Where it cannot be done, the segment's rows are copied for good, as a warning says."""
        try:
            return next(registered.steps, False)
        except ModelError as error:
            if isinstance(error, CudaError):
                self._end_if_dead(error)
            self._settle()
            registered.close()
            log.warning("%s copies a worker's rows, which takes some microseconds a batch: %s", self.engine, error)
            return False

    def launch_at(self, registered: Registered, at: int, n: int) -> Ticket:
        """See `InPlace.launch_at`."""
        self._check_room()
        place = registered.segment.places[at]
        if n <= self.max_batch:
            slot = registered.slots.get((at, self._fitting(n, place.history[:n])[0]))
            if slot is not None:
                return Ticket(slot, n, place.features, place.history, self._start(slot))
        return self.launch(place.features[:n], place.history[:n])._replace(place=place)

    def finish(self, ticket: Ticket) -> None:
        """See `InPlace.finish`."""
        self._wait(ticket)
        if ticket.place is not None:
            slot, n, place = ticket.slot, ticket.n, ticket.place
            place.p_tip[:n], place.value[:n] = slot.p_tip[:n], slot.value[:n]

    def unregister(self, registered: Registered) -> None:
        """See `InPlace.unregister`."""
        self._settle()
        registered.close()
        self._registered.remove(registered)

    def close(self) -> None:
        """Free everything; batches in flight are lost."""
        if self._closed:
            return
        self._closed = True
        rt.cudaStreamSynchronize(self._stream.handle)
        for registered in self._registered:
            registered.close()
        self._registered = []
        for slot in self._every_slot():
            slot.close()
        self._slots = []
        self._stream.close()

    def _set_up(self, plan: bytes, graphs: bool) -> None:
        self._make_slots(plan, wide=self.facts.settings.wide)
        for slot in self._every_slot():
            self._test(slot)
        plain = set()
        for slot in self._every_slot() if graphs else ():
            if reason := self._record(slot):
                log.warning("Bucket %d of %s runs without a CUDA graph: %s", slot.batch, self.engine, reason)
                plain.add(slot.batch)
        self.plain_buckets = tuple(sorted(plain))
        for slot in self._every_slot():
            for _ in range(_WARM_UP_RUNS):
                self._run(slot)

    def _make_slots(self, plan: bytes, *, wide: bool) -> None:
        """Contexts and memory of every length, bucket and turn. Contexts keep the engine, which keeps the runtime."""
        try:
            cuda_engine = trt.Runtime(LOG).deserialize_cuda_engine(plan)
        except TypeError:  # what the bindings raise when they got no runtime
            cuda_engine = None
        if cuda_engine is None:
            raise ModelError(f"TensorRT {versions.VERSION} refused the plan: {LOG.reason()}. Build the engine again.")
        profiles = itertools.count()
        for length in self._lengths:
            row = []
            for batch in self.buckets:
                context = cuda_engine.create_execution_context()
                if context is None:
                    raise ModelError(f"No execution context for bucket {batch}: {LOG.reason()}. Free GPU memory.")
                bind(context, self._stream, 0 if wide else next(profiles), batch, length, self.manifest)
                row.append(
                    tuple(Slot.staging(context, self._stream, batch, length, self.manifest) for _ in range(DEPTH))
                )
            self._slots.append(tuple(row))

    def _every_slot(self) -> Iterator[Slot]:
        return (slot for row in self._slots for pair in row for slot in pair)

    def _steps(self, registered: Registered) -> Iterator[bool]:
        """Lock the segment's pages, then record a graph at a time; true after each step but the last."""
        segment, slots = registered.segment, [pair[0] for row in self._slots for pair in row if pair[0].recorded]
        if slots:
            registered.lock()
        for at, place in enumerate(segment.places):
            for staging in slots:
                if staging.batch <= len(place.value):
                    yield True
                    slot = registered.slots[at, staging] = staging.over(place)
                    self._test(slot)
                    if reason := self._record(slot):
                        raise ModelError(reason)

    def _test(self, slot: Slot) -> None:
        """Compare a slot's plain launch with the stored scores; raises ModelError for a plan that is broken."""
        known = self._known
        tolerance = _TOLERANCE[self.facts.settings.precision]
        short = ~known.history[:, slot.length :].any(axis=(1, 2))
        rows = np.resize(np.flatnonzero(short), slot.batch)
        slot.features[:] = known.features[rows]
        slot.history[:] = known.history[rows, : slot.length]
        self._run(slot)
        off = float(np.abs(slot.p_tip - known.scores.p_tip[rows]).max())
        if not off <= tolerance:  # NaN too
            raise ModelError(
                f"Engine {self.engine} is {off:.3g} off the stored probabilities in bucket {slot.batch}, more than "
                f"{tolerance}: the plan is broken on this machine. Serve another engine, or build it again, without"
                " that bucket (--buckets) or in another --precision if this stays."
            )

    def _record(self, slot: Slot) -> str:
        """Record the slot's graph and hold it against the plain launch; a reason leaves the slot plain."""
        self._run(slot)
        plain = slot.p_tip.copy(), slot.value.copy()
        try:
            slot.record()
            slot.p_tip[:] = slot.value[:] = np.nan
            self._run(slot)
            same = np.allclose(slot.p_tip, plain[0], rtol=0, atol=_GRAPH_TOLERANCE) and np.allclose(
                slot.value, plain[1], rtol=1e-5, atol=_GRAPH_TOLERANCE
            )
            reason = "" if same else "its answers differ from the plain launch's"
        except CudaError as error:
            if error.sticky:
                raise
            reason = str(error)
        except ModelError as error:
            reason = str(error)
        if reason:
            slot.forget()
        return reason

    def _check_room(self) -> None:
        if self._closed:
            raise ModelError("This model was closed; load it again.")
        if self._in_flight == DEPTH:
            raise ModelError(f"{DEPTH} batches are in flight already; collect one before launching another.")

    def _fitting(self, n: int, history: NDArray[np.float32]) -> tuple[Slot, ...]:
        """The slots, by turn, of the smallest bucket and the shortest history that hold n rows."""
        length = 0 if len(self._lengths) == 1 or not history[:, self._lengths[0]].any() else len(self._lengths) - 1
        return self._slots[length][self._bucket_of[n]]

    def _start(self, slot: Slot) -> float:
        """Start what a slot is for, and give the time."""
        began = time.perf_counter()
        self._guarded(slot.start)
        self._in_flight += 1
        self._turn = (self._turn + 1) % DEPTH
        return began

    def _wait(self, ticket: Ticket) -> None:
        self._in_flight -= 1
        self._guarded(partial(ticket.slot.wait, ticket.began))

    def _run(self, slot: Slot) -> None:
        began = time.perf_counter()
        self._guarded(slot.start)
        self._guarded(partial(slot.wait, began))

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except CudaError as error:
            self._end_if_dead(error)
            raise

    def _end_if_dead(self, error: CudaError) -> None:
        if error.sticky:
            self._lost(f"{self.engine} lost its GPU: {error}")

    def _settle(self) -> None:
        """Wait until the GPU is at work nowhere. Whatever keeps it from being waited for, no memory may go before."""
        try:
            self._stream.synchronize()
        except CudaError as error:
            self._lost(f"{self.engine} cannot wait for its GPU: {error}")
            raise


def _check_fit(engine: Engine) -> None:
    """Raise ModelError, in words, unless the plan was built for this TensorRT and this GPU."""
    versions.check()
    facts, gpu = engine.facts, open_device()
    if facts.tensorrt != versions.VERSION:
        raise ModelError(
            f"The engine was built by TensorRT {facts.tensorrt}, and here is {versions.VERSION}: plans fit exactly one "
            "version. Build it again here with `tipstream-engine build`, or install the other version."
        )
    if facts.gpu != gpu:
        raise ModelError(
            f"The engine was built on {facts.gpu}, and here is {gpu}: plans fit one kind of GPU. Build it again here "
            "with `tipstream-engine build`."
        )
