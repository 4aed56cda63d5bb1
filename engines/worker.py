"""Who calls a model: a thread that owns it, or the event loop where a model answers sooner than threads change over."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from engines.model import Model, ModelError, Scores

_CLOSE_S = 2.0  # then the thread is left behind; it ends with the process


class _Job(NamedTuple):
    features: NDArray[np.float32]
    history: NDArray[np.float32]
    future: asyncio.Future[Scores]


@runtime_checkable
class Pipelined(Protocol):
    """A model that can be given a batch before it has answered the one before, as one on a GPU can."""

    @property
    def depth(self) -> int:
        """Batches that may be launched and not yet collected."""

    def launch(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> object:
        """Start a batch, shapes as in `Model.infer`, and return its ticket."""

    def collect(self, ticket: Any) -> Scores:
        """Wait for the batch launched first and return its scores."""


class Worker(Protocol):
    """Runs batches on a model in the order submitted. All methods belong to the event loop's thread."""

    @property
    def model(self) -> Model:
        """The model."""

    @property
    def busy(self) -> bool:
        """Whether a batch is queued or running, its result not yet delivered."""

    def submit(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> asyncio.Future[Scores]:
        """Run one batch (shapes as in `Model.infer`); the arrays must stay as they are until the future is done.

        The future carries the scores or what the model raised. Cancelling it does not stop the batch.
        """

    def close(self) -> None:
        """Let queued batches finish, and close the model."""


class InlineWorker:
    """Runs a batch where it is submitted: nothing else moves meanwhile, and a model that hangs takes the loop along.

    For models of ours on the CPU: 0.2 ms for a batch of 32, where the way to a thread and back costs 1 ms on a machine
    that is busy, since the interpreter's lock has to change hands twice.
    """

    busy = False

    def __init__(self, model: Model) -> None:
        self.model = model
        self._loop = asyncio.get_running_loop()

    def submit(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> asyncio.Future[Scores]:
        """Run one batch; the future is done. See `Worker.submit`."""
        future: asyncio.Future[Scores] = self._loop.create_future()
        try:
            future.set_result(self.model.infer(features, history))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Close the model."""
        self.model.close()


class ModelWorker:
    """Runs batches on a model in a thread of its own, so that one which is slow or hangs never blocks the loop."""

    def __init__(self, model: Model) -> None:
        """Start the thread; from here on only it calls the model."""
        self.model = model
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._in_flight = 0
        self._closed = False
        # A daemon, so that a process that dies before close() does not hang on it.
        self._thread = threading.Thread(target=self._run, name=f"model {model.engine}", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """See `Worker.busy`."""
        return self._in_flight > 0

    def submit(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> asyncio.Future[Scores]:
        """Queue one batch; see `Worker.submit`."""
        if self._closed:
            raise ModelError("The model's worker was closed and takes no more batches.")
        future: asyncio.Future[Scores] = self._loop.create_future()
        self._in_flight += 1
        self._jobs.put(_Job(features, history, future))
        return future

    def close(self) -> None:
        """Let queued batches finish, close the model, and wait for the thread; not for ever: a model may hang."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for this batch or a later one
            if isinstance(self.model, Pipelined):
                self._overlap(self.model)
            else:
                while (job := self._jobs.get()) is not None:
                    self._answer(job, partial(self.model.infer, job.features, job.history))
        self.model.close()

    def _overlap(self, model: Pipelined) -> None:
        """Launch a batch, and those that wait already, before waiting for it: up to as many as the model takes."""
        running: deque[tuple[_Job, object]] = deque()
        last = False
        while running or not last:
            job = None
            if not last and len(running) < model.depth:
                with contextlib.suppress(Empty):
                    job = self._jobs.get(block=not running)
                    last = job is None
            if job is not None:
                try:
                    running.append((job, model.launch(job.features, job.history)))
                except Exception as error:
                    self._loop.call_soon_threadsafe(self._deliver, job.future, error)
            elif running:
                done, ticket = running.popleft()
                self._answer(done, partial(model.collect, ticket))

    def _answer(self, job: _Job, call: Callable[[], Scores]) -> None:
        outcome: Scores | Exception
        try:
            outcome = call()
        except Exception as error:
            outcome = error
        self._loop.call_soon_threadsafe(self._deliver, job.future, outcome)

    def _deliver(self, future: asyncio.Future[Scores], outcome: Scores | Exception) -> None:
        self._in_flight -= 1
        if future.cancelled():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
