"""Several processes and one GPU: each with an engine of its own, or one that owns the GPU and is fed by the others.

python -m tests.benchmarks.sharing [--engine FOLDER] [--processes 1,2,4,8] [--rate 1250] [--rows 8,64] [--seconds 5]

Every process asks for batches at times drawn beforehand, as a worker of the service does, and notes how long each took,
rows in to scores out. Without MPS, processes with engines of their own take turns on the GPU by time slices; fed is the
service's own way (`model.sharing`). Without --engine, ONNX Runtime on the CPU stands in, which shows what the feeding
itself costs. One line an arrangement; all of it to FOLDER/sharing.json.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

import engines
from engines.commands.numbers import ascending
from engines.fed import feed
from engines.folder import load, read_either
from engines.manifest import Artifact, read_manifest
from engines.model import BUCKETS, ModelError
from tests.benchmarks.arguments import from_one, writable
from tests.benchmarks.gpu import Figures, rows, say, spread

REFERENCE: Final = Path(engines.__file__).parent / "models" / "reference"
_SPAWN: Final = multiprocessing.get_context("spawn")
_READY_S: Final = 180.0  # several may load an engine at a time


class Task(NamedTuple):
    """What one process does."""

    engine: Path
    fed: bool
    seconds: float
    rate: float
    """Batches a second."""
    n: int
    """Rows a batch."""
    seed: int


def ask(task: Task, channel: Connection) -> None:
    """Be a worker: load or connect, say so, wait for the word, and time batches."""
    opened = read_either(task.engine, features=read_manifest(REFERENCE).features)
    try:
        model = feed(opened) if task.fed else load(opened)
    except ModelError as error:  # there is no GPU, or another one
        raise SystemExit(str(error)) from None
    artifact = opened if isinstance(opened, Artifact) else opened.artifact
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
    model.close()


def measure(task: Task, processes: int) -> Figures:
    """Have several processes do the task at once; raises RuntimeError or EOFError if one of them does not."""
    channels, workers = [], []
    for i in range(processes):
        here, there = _SPAWN.Pipe()
        worker = _SPAWN.Process(target=ask, args=(task._replace(seed=100 * i), there), daemon=True)
        worker.start()
        there.close()
        channels.append(here)
        workers.append(worker)
    for channel in channels:
        _heard(channel, _READY_S)
    for channel in channels:
        channel.send(True)
    found = [_heard(channel, task.seconds * 5) for channel in channels]
    for worker in workers:
        worker.join(10)
    return {
        "call_us": spread(np.concatenate([took for took, _ in found])),
        "cpu_us_a_batch": round(float(np.mean([cpu for _, cpu in found])) * 1e6, 1),
    }


def _heard(channel: Connection, patience_s: float) -> Any:
    if not channel.poll(patience_s):
        raise RuntimeError("a process did not answer; its own words are above")
    return channel.recv()


def readable(text: str) -> Path:
    """Check that a folder holds an engine or a model."""
    try:
        read_either(Path(text), features=read_manifest(REFERENCE).features)
    except ModelError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)


def main() -> int:
    """Measure every arrangement at every size, print, save; 1 if one of them failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.sharing", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--engine",
        type=readable,
        default=REFERENCE,
        help="folder that `tipstream-engine build` wrote; default: the CPU",
    )
    parser.add_argument("--processes", type=ascending, default="1,2,4,8", help="how many share the GPU (%(default)s)")
    parser.add_argument("--rows", type=ascending, default="8,64", help="rows a batch (%(default)s)")
    parser.add_argument("--rate", type=from_one, default=1250.0, help="batches a second of each process (%(default)g)")
    parser.add_argument("--seconds", type=from_one, default=5.0, help="length of each measurement (%(default)g)")
    parser.add_argument("--out", type=writable, default=os.environ.get("OUT", "var"), help="for sharing.json")
    options = parser.parse_args()
    if options.rows[-1] > BUCKETS[-1]:
        parser.error(f"--rows must be {BUCKETS[-1]} or less: the model takes no more at a time")
    report: list[Figures] = []
    failed = False
    for n in options.rows:
        for processes in options.processes:
            for fed in (False, True):
                task = Task(options.engine, fed, options.seconds, options.rate, n, seed=0)
                line: Figures = {"rows": n, "processes": processes, "arrangement": "fed" if fed else "each"}
                try:
                    line |= measure(task, processes)
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
