"""A model that another process of this machine runs, and the worker that feeds it: no thread, nothing waits."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from engines import files
from engines.background import background
from engines.child import environment, follow, how_ended, own
from engines.manifest import Artifact, Manifest
from engines.model import BUCKETS, ModelError, Scores, check_inputs, check_scores
from engines.owner import ANSWER, BATCH, MOST, PROTOCOL, About, Hello, Order
from engines.segment import Segment
from engines.tensorrt.plan import Engine, pack_known

log = logging.getLogger(__name__)

_LOAD_S: Final = 120.0
_LONGEST_PATH: Final = 107  # bytes, as Linux has it
_MOST_ROWS: Final = BUCKETS[-1]
_ANSWER_S: Final = 5.0
_HANGS_S: Final = 10.0  # without an answer: far above any batch
_AGAIN_S: Final = (0.5, 1.0, 2.0, 5.0, 15.0)  # waits before an owner that ended is started anew; the last one repeats
_OWNER: Final = own("engines.owner")
_started: list[subprocess.Popen[bytes]] = []  # kept, so that those that ended are reaped


class Link:
    """A connection to an owner, and the memory that it shares."""

    def __init__(self, connection: socket.socket, segment: Segment, about: About) -> None:
        """Of what `connect` made."""
        self.connection = connection
        self.segment = segment
        self.about = about

    def send(self, at: int, features: NDArray[np.float32], history: NDArray[np.float32]) -> None:
        """Put a batch into a place and say so; raises OSError."""
        n, place = len(features), self.segment.places[at]
        place.features[:n], place.history[:n] = features, history
        self.connection.send(BATCH.pack(at, n))

    def scores(self, at: int, n: int) -> Scores:
        """Take the answer out of a place."""
        place = self.segment.places[at]
        return Scores(place.p_tip[:n].copy(), place.value[:n].copy())

    def kill(self) -> None:
        """End the owner, for all of its workers: it hangs, and they wait for nothing."""
        pid, _, _ = struct.unpack("3i", self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if pid <= 0:  # of another PID namespace; 0 would be our own process group
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Let go of both; the owner ends with its last connection."""
        self.connection.close()
        self.segment.close()


class FedModel:
    """A `Model` in another process."""

    def __init__(self, opened: Artifact | Engine, connects: Callable[[], Link]) -> None:
        """Connect, which starts the owner where there is none; raises ModelError. Blocks, for seconds."""
        self.manifest: Manifest = opened.manifest
        self.connect = connects
        self.link = connects()
        about = self.link.about
        self.engine, self.buckets, self.max_batch = about.engine, about.buckets, about.max_batch

    def infer(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Scores:
        """Score one batch and wait for it; see `Model.infer`. Not while a `FedWorker` has the model."""
        check_inputs(self.manifest, self.max_batch, features, history)
        if self.link.connection.fileno() < 0:
            raise ModelError(f"{self.engine} failed to answer before and is asked no more. Load it again.")
        try:
            self.link.send(0, features, history)
            said = self.link.connection.recv(MOST)
        except OSError as error:
            self.close()  # an answer that comes late must not be taken for that to a later batch
            raise ModelError(f"{self.engine} does not answer: {error}.") from error
        if not said:
            raise ModelError(f"{self.engine} ended: the log has its last words.")
        at, failed = ANSWER.unpack_from(said)
        if failed:
            raise ModelError(said[ANSWER.size :].decode(errors="replace"))
        return check_scores(self.link.scores(at, len(features)), features, history)

    def close(self) -> None:
        """Close the connection."""
        self.link.close()


class FedWorker:
    """Feeds a model from the event loop. See `engines.worker.Worker`.

    An owner that ends or hangs fails the batches that it has; it is started anew, away from the loop, until it serves.
    """

    def __init__(self, model: FedModel) -> None:
        """Take the model over; only this worker may ask it from now on."""
        self.model = model
        self._loop = asyncio.get_running_loop()
        self._lost = ""
        self._closed = False
        self._pending: dict[int, tuple[asyncio.Future[Scores], NDArray[np.float32], NDArray[np.float32]]] = {}
        self._coming: asyncio.Task[None] | None = None
        self._since = 0.0  # when the batch that was answered last, or else submitted first, was
        self._looking: asyncio.TimerHandle | None = None
        self._listen()

    @property
    def busy(self) -> bool:
        """Whether a batch is under way."""
        return bool(self._pending)

    def submit(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> asyncio.Future[Scores]:
        """Hand a batch over; raises ModelError if there is nobody to take it, or no place left."""
        model = self.model
        if self._closed:
            raise ModelError("The model's worker was closed and takes no more batches.")
        if self._lost:
            raise ModelError(self._lost)
        check_inputs(model.manifest, model.max_batch, features, history)
        at = next((at for at in range(len(model.link.segment.places)) if at not in self._pending), None)
        if at is None:
            raise ModelError(f"{model.engine} has {len(self._pending)} batches under way, and no place for another.")
        try:
            model.link.send(at, features, history)
        except OSError as error:
            self._lose(f"{model.engine} takes no batch: {error}.")
            raise ModelError(self._lost) from error
        future: asyncio.Future[Scores] = self._loop.create_future()
        if not self._pending:
            self._since = self._loop.time()
            if self._looking is None:
                self._looking = self._loop.call_later(_HANGS_S, self._look)
        self._pending[at] = future, features, history
        return future

    def close(self) -> None:
        """Take no more batches, and close once those under way are answered. From any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and with the process the connection goes
            self._loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        self._closed = True
        if not self._pending:
            self._hang_up()

    def _listen(self) -> None:
        connection = self.model.link.connection
        connection.setblocking(False)
        self._loop.add_reader(connection.fileno(), self._hear)

    def _look(self) -> None:
        """See, now and then, whether the owner hangs, as one does whose driver does."""
        self._looking = None
        if not self._pending:
            return
        silent_s = self._loop.time() - self._since
        if silent_s < _HANGS_S:
            self._looking = self._loop.call_later(_HANGS_S - silent_s, self._look)
            return
        self.model.link.kill()
        self._lose(f"The process that runs {self.model.engine} has not answered for {silent_s:.0f} s, and was killed.")

    def _hang_up(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if self.model.link.connection.fileno() >= 0:
            self._loop.remove_reader(self.model.link.connection.fileno())
            self.model.close()

    def _hear(self) -> None:
        try:
            said = self.model.link.connection.recv(MOST)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            self._lose(f"The process that runs {self.model.engine} ended; the log has its last words.")
            return
        at, failed = ANSWER.unpack_from(said)
        self._since = self._loop.time()
        future, features, history = self._pending.pop(at)
        if not future.cancelled():
            try:
                if failed:
                    raise ModelError(said[ANSWER.size :].decode(errors="replace"))  # noqa: TRY301
                future.set_result(check_scores(self.model.link.scores(at, len(features)), features, history))
            except ModelError as error:
                future.set_exception(error)
        if self._closed and not self._pending:
            self._hang_up()

    def _lose(self, reason: str) -> None:
        """Fail what is under way, and have the owner come back."""
        self._lost = reason
        self._hang_up()
        for future, _, _ in self._pending.values():
            if not future.cancelled():
                future.set_exception(ModelError(reason))
        self._pending.clear()
        if not self._closed:
            log.error("%s Starting it again.", reason)
            self._coming = self._loop.create_task(self._come_back(), name=f"again-{self.model.engine}")

    async def _come_back(self) -> None:
        attempt = 0
        while True:
            await asyncio.sleep(_AGAIN_S[min(attempt, len(_AGAIN_S) - 1)])
            if self._closed:
                return
            try:
                link = await background(self.model.connect)
            except (ModelError, RuntimeError) as error:  # the latter for want of a thread
                log.warning("%s is not back: %s", self.model.engine, error)
                attempt += 1
                continue
            if self._closed:  # meanwhile; to cancel the connecting would leave its link to nobody
                link.close()
                return
            self.model.link = link
            self._lost = ""
            self._listen()
            log.info("%s is back.", self.model.engine)
            return


def feed(
    opened: Artifact | Engine,
    *,
    device: str = "",
    places: int = 2,
    folder: Path | None = None,
    owner: tuple[str, ...] = _OWNER,
) -> FedModel:
    """Have a process of this machine run a model, started unless there is one; raises ModelError. Blocks, for seconds.

    What is loaded are the very bytes given. `places` batches may be under way at a time. Processes of one user find
    each other in `folder`.
    """
    order = Order(opened.manifest, opened.onnx if isinstance(opened, Artifact) else opened.artifact.onnx, device=device)
    if isinstance(opened, Engine):
        order.facts, order.plan, order.known = opened.facts, opened.plan, pack_known(opened.known)
    return FedModel(opened, partial(_connect, order, places, folder, owner))


def _connect(order: Order, places: int, folder: Path | None, owner: tuple[str, ...]) -> Link:
    """Connect to the owner of exactly these bytes; the first to come starts it, and the others wait for that.

    Raises ModelError and nothing else: whoever starts an owner again tries on after that.
    """
    try:
        return _found(order, places, folder or _folder(), owner)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelError(
            f"The process that runs the engine cannot be started or does not end ({error}). Look at the machine's "
            "memory, processes and temporary folder, and at the GPU with nvidia-smi."
        ) from error


def _found(order: Order, places: int, folder: Path, owner: tuple[str, ...]) -> Link:
    request = msgspec.msgpack.encode(order)
    path = folder / f"{hashlib.sha256(request).hexdigest()[:20]}-{PROTOCOL}"
    if (length := len(os.fsencode(path))) > _LONGEST_PATH:
        raise ModelError(
            f"{path} is {length} bytes long, and a socket's path may have {_LONGEST_PATH}. Set TMPDIR to a shorter one."
        )
    with files.locked(path.with_suffix(".lock")):
        for _ in range(2):  # one that is just ending may still be there
            with contextlib.suppress(OSError, msgspec.DecodeError):
                return _link(path, order.manifest, places)
            path.unlink(missing_ok=True)
            _start(path, request, owner)
        try:
            return _link(path, order.manifest, places)
        except (OSError, msgspec.DecodeError) as error:
            raise ModelError(f"The process that runs the engine does not answer at {path}: {error}.") from error


def _link(path: Path, manifest: Manifest, places: int) -> Link:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    segment: Segment | None = None
    try:
        connection.settimeout(_ANSWER_S)
        connection.connect(str(path))
        segment = Segment(manifest, _MOST_ROWS, places)
        socket.send_fds(connection, [msgspec.json.encode(Hello(_MOST_ROWS, places))], [segment.fd])
        about = msgspec.json.decode(connection.recv(MOST), type=About)
    except BaseException:
        connection.close()
        if segment is not None:
            segment.close()
        raise
    return Link(connection, segment, about)


def _start(path: Path, request: bytes, owner: tuple[str, ...]) -> None:
    """Start an owner and wait until it listens; raises ModelError, in words, if it does not."""
    _started[:] = [process for process in _started if process.poll() is None]
    process = subprocess.Popen(  # noqa: S603  our own module, run by our own interpreter
        [*owner, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        start_new_session=True,  # a Ctrl-C is for the workers, which hang up once they have finished
    )
    _started.append(process)
    about: About | None = None

    def heard(line: bytes) -> bool:
        nonlocal about
        with contextlib.suppress(ValueError):  # a library that prints
            about = msgspec.json.decode(line, type=About)
        return about is not None

    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        in_time = follow(process, request, until=time.monotonic() + _LOAD_S, heard=heard) is not None
    if about is not None:
        if about.error:
            process.wait(_ANSWER_S)
            raise ModelError(about.error)
        return
    process.kill()
    status = process.wait(_ANSWER_S)
    if not in_time:
        raise ModelError(
            f"The engine was not loaded and tested within {_LOAD_S:.0f} s. Look at the GPU with nvidia-smi: another "
            "process may fill it, or the driver may hang."
        )
    raise ModelError(
        f"The engine may not serve: the process that loaded it {how_ended(status)}; the log has its last words. "
        "Build it again with --level 3 or lower, or with --precision fp32."
    )


def _folder() -> Path:
    """Make the folder for the sockets: nobody else's to read or write; raises ModelError."""
    folder = Path(tempfile.gettempdir()) / f"tipstream-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ModelError(f"{folder} must belong to this user alone, and does not. Remove it.")
    return folder
