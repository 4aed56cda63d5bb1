"""A process that owns an engine's share of the GPU and answers the workers of one machine.

Without MPS, processes that each have the GPU for themselves take turns on it by time slices: on an H200 four of them
waited five times as long for a batch as one alone, and spent four times the CPU of four that fed one. So one process
has the engine and the others feed it: rows and scores lie in shared memory, a few bytes over a socket say that they are
there, and the GPU reads the rows and writes the scores right there. A plan that ends the process that loads it ends
this one, and so does an error after which no CUDA call works; a worker never has the interpreter held up by an engine
that is being loaded.

    worker -> owner   hello: JSON and the memory's descriptor;   then a batch: place and rows (`BATCH`)
    owner -> worker   about the engine: JSON;                    then an answer: place, and a reason if it failed

Run as a module, with the socket's path as argument: the engine (MessagePack) comes on standard input, one line of JSON
on standard output says that it serves or why not. It ends two seconds after the last worker is gone, or after
its start if none comes.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import selectors
import socket
import struct
import sys
import time
from collections import deque
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from engines.cpu import OnnxModel
from engines.in_place import InPlace, OneByOne
from engines.manifest import Artifact, Manifest
from engines.model import Model, ModelError
from engines.segment import Segment
from engines.tensorrt.plan import Engine, Facts, unpack_known

#: Place and rows of a batch; place and whether it failed, before the reason, of an answer.
BATCH: Final = struct.Struct("<HH")
ANSWER: Final = struct.Struct("<H?")
#: Bytes of the longest message.
MOST: Final = 4096
#: Part of a socket's name: raise it when the two sides change.
PROTOCOL: Final = 2
_LONELY_S: Final = 2.0  # without a worker
_HELLO_S: Final = 1.0  # until whoever connects has said what it should
_PREPARE_S: Final = 2.0  # until a worker is welcomed, whatever is still to be prepared: it waits no longer than 5 s
_STEP_S: Final = 0.02  # from one step of preparing, 2 ms at most on an H200, to the next if batches never cease
_Count = Annotated[int, msgspec.Meta(ge=1, le=0xFFFF)]  # as `BATCH` holds them


class Order(msgspec.Struct):
    """What is to be loaded: an engine, or the ONNX model alone."""

    manifest: Manifest
    onnx: bytes
    facts: Facts | None = None
    plan: bytes = b""
    known: bytes = b""
    device: str = ""


class Hello(msgspec.Struct):
    """How the worker's memory is laid out."""

    most_rows: _Count
    places: _Count


class About(msgspec.Struct, forbid_unknown_fields=True):
    """What the owner has loaded; with `error`, why it has not."""

    engine: str
    buckets: tuple[int, ...] = ()
    max_batch: int = 0
    error: str = ""


class _Stranger(NamedTuple):
    socket: socket.socket
    until: float
    """When its patience is over, by `time.monotonic`."""


class _Client(NamedTuple):
    socket: socket.socket
    segment: Segment
    registered: Any
    """What the model calls the segment."""


class Owner:
    """The loop: batches in the order of their arrival, as many at a time as the model takes."""

    def __init__(self, model: Model, listener: socket.socket) -> None:
        """Take a loaded model and a socket that listens."""
        self._model = model
        self._scorer: InPlace = model if isinstance(model, InPlace) else OneByOne(model)
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._strangers: dict[int, _Stranger] = {}  # connected, and have not said hello
        self._clients: dict[int, _Client] = {}
        self._newcomers: dict[int, float] = {}  # clients not yet welcomed, and when they will be at the latest
        self._next_step = 0.0  # when a newcomer's next step is taken even if batches wait
        self._waiting: deque[tuple[int, int, int]] = deque()  # client, place, rows
        self._running: deque[tuple[int, int, object]] = deque()  # client, place, ticket

    def run(self) -> None:
        """Answer until there has been no worker for a while."""
        lonely_since: float | None = None
        while lonely_since is None or time.monotonic() - lonely_since < _LONELY_S:
            for key, _ in self._selector.select(self._patience()):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fd in self._strangers:
                    self._greet(key.fd)
                else:
                    self._hear(key.fd)
            self._tire()
            self._work()
            if self._clients:
                lonely_since = None
            elif lonely_since is None:
                lonely_since = time.monotonic()

    def _patience(self) -> float | None:
        """Seconds that may pass until there is something to do besides listening; None for any number."""
        if self._waiting or self._running or self._newcomers:
            return 0.0
        if self._strangers:
            return min(_HELLO_S, _LONELY_S)
        return None if self._clients else _LONELY_S

    def _work(self) -> None:
        """Launch one batch, or, where none waits or no more may be under way, finish one; else prepare something.

        Preparing goes on where batches never cease, too: now and then they wait for a step.
        """
        step_due = bool(self._newcomers) and time.monotonic() >= self._next_step
        if self._waiting and len(self._running) < self._scorer.depth and not step_due:
            client, at, n = self._waiting.popleft()
            try:
                ticket = self._scorer.launch_at(self._clients[client].registered, at, n)
            except ModelError as error:
                self._answer(client, at, str(error))
            else:
                self._running.append((client, at, ticket))
        elif self._running:
            self._finish()
        elif self._newcomers:
            self._prepare()

    def _finish(self) -> None:
        """Finish the batch launched first, and say so."""
        client, at, ticket = self._running.popleft()
        try:
            self._scorer.finish(ticket)
        except ModelError as error:
            self._answer(client, at, str(error))
        else:
            self._answer(client, at)

    def _prepare(self) -> None:
        """Take one step for the newcomer who came first; nothing is under way now, and a step is short.

        A graph is tried in the place that it is for, on rows of the model's own. Nobody else writes or reads there: a
        worker has no use for its places until it is welcomed, and it is after the last step.
        """
        client = next(iter(self._newcomers))
        if not self._scorer.prepare(self._clients[client].registered):
            self._welcome(client)
        self._next_step = time.monotonic() + _STEP_S

    def _answer(self, client: int, at: int, reason: str = "") -> None:
        if known := self._clients.get(client):
            try:
                known.socket.send(ANSWER.pack(at, bool(reason)) + reason.encode()[: MOST - ANSWER.size])
            except OSError:
                with contextlib.suppress(OSError):  # if the worker was the first to hang up
                    known.socket.shutdown(socket.SHUT_RDWR)  # which is heard, like its own hanging up

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it is gone again, or there is no descriptor for it now
            return
        connection.setblocking(False)
        self._strangers[connection.fileno()] = _Stranger(connection, time.monotonic() + _HELLO_S)
        self._selector.register(connection, selectors.EVENT_READ)

    def _greet(self, stranger: int) -> None:
        """Take in a worker, a newcomer at first; one that does not say what it should is sent away."""
        connection = self._strangers[stranger].socket
        try:
            segment = self._shared(connection)
        except (OSError, ValueError, IndexError) as error:
            self._dismiss(stranger, str(error))
            return
        del self._strangers[stranger]
        self._clients[stranger] = _Client(connection, segment, self._scorer.register(segment))
        self._newcomers[stranger] = time.monotonic() + _PREPARE_S

    def _welcome(self, client: int) -> None:
        """Tell a newcomer what there is: it may ask from now on."""
        del self._newcomers[client]
        about = About(self._model.engine, self._model.buckets, self._model.max_batch)
        try:
            self._clients[client].socket.send(msgspec.json.encode(about))
        except OSError:
            self._part(client)

    def _shared(self, connection: socket.socket) -> Segment:
        """Map the memory that comes with a hello; raises OSError, ValueError or IndexError."""
        said, descriptors, _, _ = socket.recv_fds(connection, MOST, 1)
        try:
            hello = msgspec.json.decode(said, type=Hello)
            return Segment(self._model.manifest, hello.most_rows, hello.places, descriptors.pop())
        finally:
            for descriptor in descriptors:  # that no segment took over
                os.close(descriptor)

    def _tire(self) -> None:
        """Send away who connected and says nothing, and welcome who came while there was no time to prepare."""
        now = time.monotonic()
        for newcomer in [fd for fd, until in self._newcomers.items() if now >= until]:
            logging.warning("In %g s not all was prepared for a worker: some of its rows are copied.", _PREPARE_S)
            self._welcome(newcomer)
        for stranger in [fd for fd, known in self._strangers.items() if now >= known.until]:
            self._dismiss(stranger, f"it said nothing for {_HELLO_S:g} s")

    def _dismiss(self, stranger: int, reason: str) -> None:
        logging.warning("A worker was sent away: %s", reason)
        known = self._strangers.pop(stranger)
        self._selector.unregister(known.socket)
        known.socket.close()

    def _hear(self, client: int) -> None:
        try:
            said = self._clients[client].socket.recv(MOST)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        at, n = BATCH.unpack(said) if len(said) == BATCH.size else (0, 0)
        places = self._clients[client].segment.places
        if client not in self._newcomers and at < len(places) and 0 < n <= len(places[at].value):
            self._waiting.append((client, at, n))
        else:
            self._part(client)

    def _part(self, client: int) -> None:
        """Forget a worker. What is under way is finished first, since the GPU may be at work in that very memory."""
        known = self._clients.pop(client)
        self._newcomers.pop(client, None)
        self._selector.unregister(known.socket)
        self._waiting = deque(batch for batch in self._waiting if batch[0] != client)
        while self._running:
            self._finish()
        self._scorer.unregister(known.registered)
        known.socket.close()
        known.segment.close()


def load(order: Order) -> Model:
    """Load what was ordered; raises ModelError."""
    artifact = Artifact(order.manifest, order.onnx)
    if order.facts is None:
        return OnnxModel(artifact)
    from engines.tensorrt.cuda import choose  # needs a GPU's packages
    from engines.tensorrt.runner import TensorRTRunner

    choose(order.device)
    return TensorRTRunner(Engine(artifact, order.facts, order.plan, unpack_known(order.known)))


def main() -> int:
    """Load, listen, say so, answer; 2 if it could not be loaded."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )
    path = Path(sys.argv[1])
    order = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Order)
    try:
        model = load(order)
    except ModelError as error:
        _say(About("", error=str(error)))
        return 2
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        made = path.stat().st_ino
        listener.listen(128)
        listener.setblocking(False)
        _say(About(model.engine, model.buckets, model.max_batch))
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads it any more
        gc.freeze()
        gc.disable()
        try:
            Owner(model, listener).run()
        finally:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == made:  # else it is a successor's, who took us for dead
                    path.unlink()
    model.close()
    return 0


def _say(about: About) -> None:
    print(msgspec.json.encode(about).decode(), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
