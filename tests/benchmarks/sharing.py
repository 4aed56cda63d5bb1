"""Several processes and one GPU: each with an engine of its own, or one that owns the GPU and is fed by the others.

python -m tests.benchmarks.sharing [--engine FOLDER] [--processes 1,2,4,8] [--rate 1250] [--rows 8,64] [--seconds 5]

Every process asks for batches at times drawn beforehand, as a worker of the service does, and notes how long each took,
rows in to scores out. Without MPS, processes with engines of their own take turns on the GPU by time slices. Fed: rows
and scores lie in shared memory, a few bytes over a socket say that they are there. Without --engine, ONNX Runtime on
the CPU stands in, which shows what the feeding itself costs. One line an arrangement; all of it to FOLDER/sharing.json.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import selectors
import socket
import sys
import time
from collections import deque
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

import engines
from engines.cpu import OnnxModel
from engines.manifest import Manifest, read, read_manifest
from engines.model import Model, Scores
from tests.benchmarks.gpu import Figures, rows, say, spread

REFERENCE: Final = Path(engines.__file__).parent / "models" / "reference"
_MOST_ROWS: Final = 512
_SPAWN: Final = multiprocessing.get_context("spawn")
_READY_S: Final = 120.0


class Task(NamedTuple):
    """What one process does."""

    engine: Path | None
    seconds: float
    rate: float
    """Batches a second."""
    n: int
    """Rows a batch."""
    seed: int


class Segment:
    """Shared memory of one fed process: a batch's rows, and its scores."""

    def __init__(self, manifest: Manifest, name: str = "") -> None:
        """Make a new one, or open the one called `name`."""
        shapes = [
            (_MOST_ROWS, manifest.n_features),
            (_MOST_ROWS, *manifest.history),
            (_MOST_ROWS, len(manifest.horizons_s)),
            (_MOST_ROWS,),
        ]
        sizes = [4 * int(np.prod(shape)) for shape in shapes]
        self.memory = SharedMemory(name or None, create=not name, size=sum(sizes))
        self.arrays: list[NDArray[np.float32]] = [
            np.ndarray(shape, np.float32, self.memory.buf, sum(sizes[:i])) for i, shape in enumerate(shapes)
        ]

    def close(self, *, remove: bool) -> None:
        """Unmap it, and remove it for good if it is ours."""
        self.arrays = []
        self.memory.close()
        if remove:
            self.memory.unlink()


class Fed:
    """A model in another process: rows into shared memory, a few bytes over a socket, and wait."""

    def __init__(self, segment: Segment, to: socket.socket) -> None:
        """`to` is one end of a pair whose other end the owner has."""
        self._segment, self._to = segment, to

    def infer(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Scores:
        """Score one batch."""
        n = len(features)
        given, past, p_tip, value = self._segment.arrays
        given[:n], past[:n] = features, history
        self._to.send(n.to_bytes(4, "little"))
        if not self._to.recv(1):
            raise RuntimeError("the owner is gone")
        return Scores(p_tip[:n].copy(), value[:n].copy())


def own(engine: Path | None, names: list[str], ends: list[socket.socket], ready: Connection, busy: bool) -> None:
    """Be the process that owns the GPU: answer until every socket is closed. `busy`: never sleep between batches."""
    model: Any = load(engine)
    segments = [Segment(model.manifest, name) for name in names]
    depth: int = getattr(model, "depth", 0)
    waiting: deque[tuple[int, int]] = deque()  # process, rows
    running: deque[tuple[int, Any]] = deque()  # process, ticket
    selector = selectors.DefaultSelector()
    for i, end in enumerate(ends):
        selector.register(end, selectors.EVENT_READ, i)
    ready.send(True)
    gc.disable()
    while selector.get_map():
        for key, _ in selector.select(0 if busy or running or waiting else None):
            said = ends[key.data].recv(4)
            if said:
                waiting.append((key.data, int.from_bytes(said, "little")))
            else:
                selector.unregister(ends[key.data])
        if waiting and (not depth or len(running) < depth):
            i, n = waiting.popleft()
            features, history = (array[:n] for array in segments[i].arrays[:2])
            if depth:
                running.append((i, model.launch(features, history)))
                continue  # look for another batch before waiting for this one
            answer(segments[i], ends[i], model.infer(features, history))
        elif running:
            i, ticket = running.popleft()
            answer(segments[i], ends[i], model.collect(ticket))
    model.close()
    for segment in segments:
        segment.close(remove=False)


def answer(segment: Segment, to: socket.socket, scores: Scores) -> None:
    """Hand scores back."""
    n = len(scores.value)
    segment.arrays[2][:n], segment.arrays[3][:n] = scores
    to.send(b"\1")


def ask(task: Task, fed: tuple[str, socket.socket] | None, channel: Connection) -> None:
    """Be a worker: load or connect, say so, wait for the word, and time batches."""
    artifact = read(REFERENCE if task.engine is None else task.engine, features=read_manifest(REFERENCE).features)
    segment = Segment(artifact.manifest, fed[0]) if fed else None
    model: Any = Fed(segment, fed[1]) if fed and segment else load(task.engine)
    sets = [rows(artifact, task.n, task.seed + i) for i in range(8)]
    for i in range(50):
        model.infer(*sets[i % 8])
    channel.send(True)
    channel.recv()
    gc.disable()
    draw = np.random.default_rng(task.seed)
    due = time.perf_counter() + np.cumsum(draw.exponential(1 / task.rate, int(task.rate * task.seconds)))
    took = np.empty(len(due))
    cpu = time.process_time()
    for i, at in enumerate(due):
        if (ahead := at - time.perf_counter()) > 0:
            time.sleep(ahead)
        began = time.perf_counter()
        model.infer(*sets[i % 8])
        took[i] = time.perf_counter() - began
    channel.send((took, (time.process_time() - cpu) / len(due)))
    if segment:
        segment.close(remove=False)


def load(engine: Path | None) -> Model:
    """Give the engine in a folder, or the CPU's stand-in."""
    features = read_manifest(REFERENCE).features
    if engine is None:
        return OnnxModel.load(REFERENCE, features=features)
    from engines.tensorrt.runner import TensorRTRunner

    return TensorRTRunner.load(engine, features=features)


def measure(task: Task, processes: int, arrangement: str) -> Figures:
    """Run one arrangement: `each`, `fed`, or `fed-busy`, where the owner never sleeps."""
    manifest = read_manifest(REFERENCE if task.engine is None else task.engine)
    feeding = arrangement != "each"
    segments = [Segment(manifest) for _ in range(processes if feeding else 0)]
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in segments]
    owner = None
    try:
        if feeding:
            ready, there = _SPAWN.Pipe()
            names, ends = [segment.memory.name for segment in segments], [pair[0] for pair in pairs]
            arguments = (task.engine, names, ends, there, arrangement == "fed-busy")
            owner = _SPAWN.Process(target=own, args=arguments, daemon=True)
            owner.start()
            there.close()
            _heard(ready)
        fed: list[tuple[str, socket.socket] | None] = [
            (segment.memory.name, pair[1]) for segment, pair in zip(segments, pairs, strict=True)
        ] or [None] * processes
        return _asked(task, fed)
    finally:
        for pair in pairs:
            for end in pair:
                end.close()
        if owner is not None:
            owner.join(10)
            owner.kill()
        for segment in segments:
            segment.close(remove=True)


def _asked(task: Task, fed: list[tuple[str, socket.socket] | None]) -> Figures:
    channels, workers = [], []
    for i, how in enumerate(fed):
        here, there = _SPAWN.Pipe()
        worker = _SPAWN.Process(target=ask, args=(task._replace(seed=100 * i), how, there), daemon=True)
        worker.start()
        there.close()
        channels.append(here)
        workers.append(worker)
    for channel in channels:
        _heard(channel)
    for channel in channels:
        channel.send(True)
    found = [_heard(channel, task.seconds * 5) for channel in channels]
    for worker in workers:
        worker.join(10)
    return {
        "call_us": spread(np.concatenate([took for took, _ in found])),
        "cpu_us_a_batch": round(float(np.mean([cpu for _, cpu in found])) * 1e6, 1),
    }


def _heard(channel: Connection, patience_s: float = _READY_S) -> Any:
    if not channel.poll(patience_s):
        raise RuntimeError("a process did not answer; its own words are above")
    return channel.recv()


def main() -> int:
    """Measure every arrangement at every size, print, save; 1 if one of them failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.sharing", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--engine", type=Path, help="folder that `tipstream-engine build` wrote; default: the CPU")
    parser.add_argument("--processes", default="1,2,4,8", help="how many share the GPU (%(default)s)")
    parser.add_argument("--rows", default="8,64", help="rows a batch (%(default)s)")
    parser.add_argument("--rate", type=float, default=1250.0, help="batches a second of each process (%(default)g)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement (%(default)g)")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "var")), help="for sharing.json")
    options = parser.parse_args()
    report: list[Figures] = []
    failed = False
    for n in map(int, options.rows.split(",")):
        for processes in map(int, options.processes.split(",")):
            for arrangement in ("each", "fed", "fed-busy"):
                task = Task(options.engine, options.seconds, options.rate, n, seed=0)
                line: Figures = {"rows": n, "processes": processes, "arrangement": arrangement}
                try:
                    line |= measure(task, processes, arrangement)
                except (RuntimeError, EOFError) as error:
                    line["error"] = str(error) or type(error).__name__
                    failed = True
                say(str(line))
                report.append(line)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "sharing.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
