"""The GPU's figures: engines built from the reference model, then every bucket timed against the bare CUDA graph.

A call is timed as the process that owns an engine makes it, of rows that a worker has just put into memory that both
share to scores in that memory, and beside it with the rows copied, as a process makes it that has the engine itself.

python -m tests.benchmarks.gpu [--smoke] [--engines fp32,fp16,...] [--out FOLDER]

Needs an NVIDIA GPU and the packages of `tipstream[gpu]`. Prints what it does as it goes on, a table at the end, and
writes every figure to FOLDER/gpu.json. `--smoke` stops after one small engine and says how far it came.
Each engine is built, loaded and measured by itself: one that fails is reported and the others go on.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

import engines
from engines.cpu import OnnxModel
from engines.manifest import Artifact, read, read_manifest
from engines.model import BUCKETS, Model, ModelError, Scores
from engines.segment import Segment
from engines.tensorrt.build import build
from engines.tensorrt.calibrate import calibrate
from engines.tensorrt.plan import Settings, read_facts
from tests.benchmarks.arguments import writable

REFERENCE: Final = Path(engines.__file__).parent / "models" / "reference"
Figures = dict[str, Any]
Rows = tuple[NDArray[np.float32], NDArray[np.float32]]

_RUNS: Final = 3000
_CPU_RUNS: Final = 200
_INPUT_SETS: Final = 8
_THROUGHPUT_BATCHES: Final = 4000


def plans(level: int) -> dict[str, Settings]:
    """Every engine that is compared, by the name in the table."""
    return {
        "fp32": Settings(level=level),
        "fp16": Settings(precision="fp16", level=level),
        "fp32-16": Settings(lengths=(16, 32), level=level),
        "fp32-wide": Settings(wide=True, level=level),
        "fp32-exact": Settings(tf32=False, level=level),
        "int8": Settings(precision="int8", level=level),
    }


def names(text: str) -> list[str]:
    """Read names of such engines."""
    found = text.split(",")
    if unknown := set(found) - set(plans(0)):
        raise argparse.ArgumentTypeError(f"{min(unknown)!r} is none of {', '.join(plans(0))}")
    return found


def rows(model: Artifact, n: int, seed: int, length: int | None = None) -> Rows:
    """Draw rows like those of traffic; `length` events of history each, all by default."""
    rng = np.random.default_rng(seed)
    features = rng.exponential(2.0, (n, model.manifest.n_features)).astype(np.float32)
    history = rng.exponential(2.0, (n, *model.manifest.history)).astype(np.float32)
    history[:, :, 0] = rng.integers(1, 12, history.shape[:2])
    history[:, length:] = 0 if length else history[:, length:]
    return features, history


def spread(seconds: NDArray[np.float64]) -> Figures:
    """Microseconds: median, p99, largest."""
    return {"p50": quantile(seconds, 50), "p99": quantile(seconds, 99), "max": quantile(seconds, 100)}


def quantile(seconds: NDArray[np.float64], percent: float) -> float:
    """Give one percentile in microseconds."""
    return round(float(np.percentile(seconds, percent)) * 1e6, 2)


def timed(
    call: Callable[[int], object], runs: int, before: Callable[[int], object] = lambda _: None
) -> NDArray[np.float64]:
    """Seconds of each of `runs` calls, after some that do not count; the collector is off meanwhile.

    What is done `before` each does not count.
    """
    found = np.empty(runs)
    for i in range(max(20, runs // 10)):
        before(i)
        call(i)
    gc.collect()
    gc.disable()
    try:
        for i in range(runs):
            before(i)
            began = time.perf_counter()
            call(i)
            found[i] = time.perf_counter() - began
    finally:
        gc.enable()
    return found


def in_place(runner: Any, artifact: Artifact, runs: int) -> Figures:
    """Rows in a segment to scores in it, a full bucket at a time; and how long it took to prepare the segment."""
    segment = Segment(artifact.manifest, runner.max_batch, 1)
    place = segment.places[0]
    registered = runner.register(segment)
    steps = [time.perf_counter()]
    while runner.prepare(registered):
        steps.append(time.perf_counter())
    steps.append(time.perf_counter())
    found: Figures = {}
    for size in runner.buckets:
        sets = [rows(artifact, size, seed) for seed in range(_INPUT_SETS)]

        def put(i: int, n: int = size, sets: list[Rows] = sets) -> None:
            place.features[:n], place.history[:n] = sets[i % _INPUT_SETS]

        def call(_: int, n: int = size) -> None:
            runner.finish(runner.launch_at(registered, 0, n))

        found[str(size)] = spread(timed(call, runs, put))
        expected = runner.infer(*sets[(runs - 1) % _INPUT_SETS])
        same = np.array_equal(place.p_tip[:size], expected.p_tip) and np.array_equal(place.value[:size], expected.value)
        found[str(size)]["as_copied"] = same
    graphs = len(registered.slots)
    runner.unregister(registered)
    segment.close()
    return {"call": found, "graphs": graphs, "prepare_ms": (np.diff(steps) * 1e3).round(2).tolist()}


def latency(model: Model, artifact: Artifact, buckets: tuple[int, ...], runs: int) -> Figures:
    """Rows in, scores out, a full bucket at a time."""
    found = {}
    for size in buckets:
        sets = [rows(artifact, size, seed) for seed in range(_INPUT_SETS)]
        found[str(size)] = spread(timed(lambda i, sets=sets: model.infer(*sets[i % _INPUT_SETS]), runs))  # type: ignore[misc]
    return found


def bare(runner: Any, runs: int) -> Figures:
    """Each bucket's launch and completion alone: what no runner can be faster than."""
    found = {}
    for row in runner._slots:
        for pair in row:
            slot = pair[0]
            name = str(slot.batch) if len(runner._slots) == 1 else f"{slot.batch}x{slot.length}"
            found[name] = {**spread(timed(lambda _, slot=slot: runner._run(slot), runs)), "graph": slot.recorded}  # type: ignore[misc]
    return found


def throughput(runner: Any, artifact: Artifact, size: int) -> Figures:
    """Scores a second at one bucket, one batch at a time and two in flight."""
    sets = [rows(artifact, size, seed) for seed in range(_INPUT_SETS)]
    began = time.perf_counter()
    for i in range(_THROUGHPUT_BATCHES):
        runner.infer(*sets[i % _INPUT_SETS])
    single = time.perf_counter() - began
    began = time.perf_counter()
    ticket = runner.launch(*sets[0])
    for i in range(1, _THROUGHPUT_BATCHES):
        following = runner.launch(*sets[i % _INPUT_SETS])
        runner.collect(ticket)
        ticket = following
    runner.collect(ticket)
    double = time.perf_counter() - began
    scores = size * _THROUGHPUT_BATCHES
    return {"one_in_flight": round(scores / single), "two_in_flight": round(scores / double)}


def accuracy(runner: Model, reference: Model, artifact: Artifact) -> Figures:
    """Largest difference of a probability: from the FP32 reference, and between buckets and slots of one engine."""
    features, history = rows(artifact, 1024, 99)
    features[:] = features * np.random.default_rng(3).random((1024, 1), np.float32) * 2
    expected, whole = reference.infer(features, history), runner.infer(features, history)
    parts: dict[int, NDArray[np.float32]] = {}
    for size in runner.buckets:
        pieces = [runner.infer(features[i : i + size], history[i : i + size]) for i in range(0, 1024, size)]
        parts[size] = np.concatenate([piece.p_tip for piece in pieces])
    moved = runner.infer(features[::-1].copy(), history[::-1].copy())
    return {
        "off_reference": float(np.abs(whole.p_tip - expected.p_tip).max()),
        "off_reference_value": float((np.abs(whole.value - expected.value) / (1 + expected.value)).max()),
        "between_buckets": max(float(np.abs(part - whole.p_tip).max()) for part in parts.values()),
        "between_slots": float(np.abs(moved.p_tip[::-1] - whole.p_tip).max()),
        "largest_p": float(expected.p_tip.max()),
    }


def measure(name: str, settings: Settings, artifact: Artifact, cache: Path, reference: Model) -> Figures:
    """Build, load and time one engine."""
    say(f"{name}: building")
    began = time.perf_counter()
    calibration = calibrate(artifact, *rows(artifact, 1024, 0)) if settings.precision == "int8" else None
    folder = build(artifact, settings, cache, calibration=calibration, timeout_s=400.0, progress=heartbeat(name))
    found: Figures = {"build_s": round(time.perf_counter() - began, 1)}
    began = time.perf_counter()
    build(artifact, settings, cache, calibration=calibration, timeout_s=400.0)
    found["found_again_s"] = round(time.perf_counter() - began, 1)
    facts = read_facts(folder)
    found |= {"plan_bytes": facts.plan_bytes, "tensorrt": facts.tensorrt, "gpu": str(facts.gpu), "driver": facts.driver}
    from engines.tensorrt.runner import TensorRTRunner

    say(f"{name}: built in {found['build_s']} s ({facts.plan_bytes / 1e6:.1f} MB); loading")
    began = time.perf_counter()
    runner = TensorRTRunner.load(folder, features=artifact.manifest.features)
    found["load_s"] = round(time.perf_counter() - began, 2)
    found["plain_buckets"] = list(runner.plain_buckets)
    say(f"{name}: loaded in {found['load_s']} s; buckets without a graph: {list(runner.plain_buckets) or 'none'}")
    try:
        found["accuracy"] = accuracy(runner, reference, artifact)
        found["bare"] = bare(runner, _RUNS)
        found |= in_place(runner, artifact, _RUNS)
        found["copied"] = latency(runner, artifact, runner.buckets, _RUNS)
        found["throughput"] = {str(size): throughput(runner, artifact, size) for size in (64, 512, 1024)}
        if len(settings.lengths) > 1:
            short = [rows(artifact, 512, seed, settings.lengths[0]) for seed in range(_INPUT_SETS)]
            found["short_512"] = spread(timed(lambda i: runner.infer(*short[i % _INPUT_SETS]), _RUNS))
            expected = reference.infer(*short[0])
            found["short_off_reference"] = float(np.abs(runner.infer(*short[0]).p_tip - expected.p_tip).max())
    finally:
        runner.close()
    return found


def smoke(artifact: Artifact, cache: Path, reference: Model) -> None:
    """One small engine, step by step: the first line without an answer is where it stops."""
    import tensorrt
    from cuda.bindings import runtime as rt

    say(f"tensorrt {tensorrt.__version__} imported, parser {tensorrt.get_nv_onnx_parser_version()}")
    say(f"cudaGetDeviceCount: {rt.cudaGetDeviceCount()}; driver {rt.cudaDriverGetVersion()}")
    from engines.tensorrt.cuda import open_device

    say(f"device: {open_device()}")
    from engines.tensorrt.runner import TensorRTRunner

    say("building buckets 1 and 64 at level 1")
    folder = build(artifact, Settings(buckets=(1, 64), level=1), cache, timeout_s=200.0, progress=heartbeat("smoke"))
    say(f"built {folder.name}; loading without graphs")
    plain = TensorRTRunner.load(folder, features=artifact.manifest.features, graphs=False)
    batch = rows(artifact, 64, 1)
    expected = reference.infer(*batch)
    say(f"plain: off the reference by {_off(plain.infer(*batch), expected):.2g}")
    plain.close()
    runner = TensorRTRunner.load(folder, features=artifact.manifest.features)
    say(f"graphs: off by {_off(runner.infer(*batch), expected):.2g}; without a graph: {runner.plain_buckets or 'none'}")
    say(f"bucket 64: {spread(timed(lambda _: runner.infer(*batch), 500))} us")
    runner.close()


def _off(scores: Scores, expected: Scores) -> float:
    return float(np.abs(scores.p_tip - expected.p_tip).max())


def table(report: Figures) -> Iterator[str]:
    """Lines for a person."""
    for name, found in report["engines"].items():
        if "error" in found:
            yield f"{name}: {found['error']}"
            continue
        exact = found["accuracy"]
        yield (
            f"{name}: built in {found['build_s']} s, loaded in {found['load_s']} s, |dp| {exact['off_reference']:.2g}, "
            f"between buckets {exact['between_buckets']:.2g}, slots {exact['between_slots']:.2g}"
        )
        yield (
            f"  a worker's place: {found['graphs']} graphs, prepared in {sum(found['prepare_ms']):.1f} ms, "
            f"at most {max(found['prepare_ms'])} at a time"
        )
        yield "  bucket   bare p50   call p50   call p99  p99/bare copied p50 copied p99  p99/bare"
        for size, call in found["call"].items():
            floor = found["bare"].get(size) or found["bare"][f"{size}x32"]
            line = f"  {size:>6} {floor['p50']:10.1f}"
            for way in (call, found["copied"][size]):
                line += f" {way['p50']:10.1f} {way['p99']:10.1f} {way['p99'] / floor['p50']:9.2f}"
            yield line if call["as_copied"] else f"{line}  NOT THE SAME SCORES"
        for size, rate in found["throughput"].items():
            yield f"  {size:>6} scores/s: {rate['one_in_flight']:,}, two in flight {rate['two_in_flight']:,}"
        if "short_512" in found:
            yield f"  512 with short history: {found['short_512']} us, |dp| {found['short_off_reference']:.2g}"
    yield "ONNX Runtime, CPU, one thread:"
    for size, call in report["cpu"].items():
        yield f"  {size:>6} {'':10} {call['p50']:10.1f} {call['p99']:10.1f}"


def heartbeat(name: str) -> Callable[[str, float], None]:
    """Say what the builder does, but not every second."""
    said: list[str] = []

    def progress(step: str, seconds: float) -> None:
        if step not in said:
            said.append(step)
            say(f"{name}: {step} ({seconds:.0f} s)")

    return progress


def say(line: str) -> None:
    """Print at once: a run that is cut short still shows how far it came."""
    print(line, flush=True)


def main() -> int:
    """Measure, print, save; 1 if an engine failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="one small engine, step by step")
    parser.add_argument("--engines", type=names, default="fp32,fp16", help=f"of {', '.join(plans(0))} (%(default)s)")
    parser.add_argument(
        "--level", type=int, choices=range(6), default=5, help="TensorRT's optimisation level (%(default)s)"
    )
    parser.add_argument("--cache", type=writable, default="var/engines", help="where engines are kept (%(default)s)")
    parser.add_argument("--out", type=writable, default=os.environ.get("OUT", "var"), help="for gpu.json (%(default)s)")
    options = parser.parse_args()
    artifact = read(REFERENCE, features=read_manifest(REFERENCE).features)
    reference = OnnxModel(artifact)
    if options.smoke:
        try:
            smoke(artifact, options.cache, reference)
        except (ImportError, ModelError) as error:
            raise SystemExit(f"It stops here: {error}") from None
        return 0
    report: Figures = {"date": time.strftime("%Y-%m-%d"), "level": options.level, "engines": {}}
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.engines:
        try:
            found = measure(name, plans(options.level)[name], artifact, options.cache, reference)
        except ModelError as error:  # a sentence, which the table repeats
            found = {"error": str(error)}
        except Exception as error:  # reported, so that the other engines are still measured
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"}
        report["engines"][name] = found
        (options.out / "gpu.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    report["cpu"] = latency(reference, artifact, BUCKETS, _CPU_RUNS)
    (options.out / "gpu.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    for line in table(report):
        say(line)
    return int(any("error" in found for found in report["engines"].values()))


if __name__ == "__main__":
    sys.exit(main())
