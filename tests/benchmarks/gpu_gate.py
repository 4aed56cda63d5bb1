"""The gate on a GPU: engines of the reference model are built, probed, judged, signed, promoted and taken back.

python -m tests.benchmarks.gpu_gate --make ROWS.npz RECORDING      anywhere: recorded rows into one file
python -m tests.benchmarks.gpu_gate --rows ROWS.npz [--out FOLDER] on the GPU's machine, which needs no PyArrow

Writes each engine's report and verdict to FOLDER and prints one line a check that failed. `--crash` also builds FP16 at
level 5, which on TensorRT 8.6 must be refused by the probe.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
import zipfile
from pathlib import Path
from typing import Final

import numpy as np

import engines
from engines.commands.numbers import amount
from engines.gate import report
from engines.gate.accuracy import Sample
from engines.gate.energy import Plan
from engines.gate.traffic import Traffic, read_traffic, thin
from engines.gate.verdict import Verdict, write_verdict
from engines.gate.verify import Options, verify
from engines.manifest import Artifact, read, read_manifest
from engines.model import ModelError
from engines.tensorrt.build import build
from engines.tensorrt.calibrate import calibrate
from engines.tensorrt.plan import Settings, read_engine
from engines.tensorrt.probe import probe
from tests.benchmarks.arguments import writable

REFERENCE: Final = Path(engines.__file__).parent / "models" / "reference"
_ROWS: Final = 20_000


def make(path: Path, recording: Path) -> None:
    """Turn a recording into a file of rows that is small enough to carry."""
    traffic = read_traffic(recording, read_manifest(REFERENCE), progress=say)
    sample = thin(traffic.sample, _ROWS)
    np.savez_compressed(path, source=np.array(traffic.source), **sample._asdict())
    say(f"{path}: {len(sample.weight):,} rows, {path.stat().st_size / 2**20:.1f} MiB")


def read_rows(name: str) -> Traffic:
    """Read what `make` wrote."""
    try:
        with np.load(name) as arrays:
            sample = Sample(*(arrays[field] for field in Sample._fields))
            return Traffic(sample, f"{arrays['source']} ({len(sample.weight):,} carried here)")
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise argparse.ArgumentTypeError(f"{name!r} holds no rows that --make wrote") from error


def precisions(text: str) -> list[str]:
    """Read precisions, each with a level or without."""
    found = text.split(",")
    if not all(re.fullmatch("(fp32|fp16|int8)(@[0-5])?", each) for each in found):
        raise argparse.ArgumentTypeError(f"{text!r} must be of fp32, fp16, int8, each alone or with a level: fp16@2")
    return found


def judge(folder: Path, traffic: Traffic, exact: Path | None, out: Path, options: Options) -> Verdict:
    """Verify one engine and leave its report."""
    began = time.perf_counter()
    verdict = verify(folder, traffic, against=exact, exact=exact, options=options)
    write_verdict(folder, verdict)
    name = folder.name if (folder / "engine.json").exists() else "cpu"
    (out / f"{name}.md").write_text(report.markdown(verdict))
    (out / f"{name}.html").write_text(report.page(verdict))
    say(f"{verdict.subject}: {'passed' if verdict.passed else 'NOT passed'} in {time.perf_counter() - began:.0f} s")
    for check in verdict.checks:
        if not check.passed:
            say(f"  {check.name}: {check.found}, {check.limit}")
    moves, found = verdict.moves, verdict.accuracy
    say(f"  |dp| {found.max_change:.2g} at most, p99 {found.p99_change:.2g}, other tier {found.flipped:.3%}")
    say(f"  moved: slot {moves.slot:.2g}, beside {max(moves.neighbours.values()):.2g}, bucket {moves.bucket:.2g}")
    for timing in verdict.speeds[0].timings:
        say(f"  {timing.size:>5} rows: {timing.p50_us:8.1f} us, p99 {timing.p99_us:8.1f}, {timing.per_second:,.0f}/s")
    for line in report.energy_lines(verdict):
        say(f"  {line}")
    return verdict


def release(root: Path, folders: list[Path]) -> None:
    """Sign, promote, open, probe and go back, as a shop does."""
    try:
        from engines.repository.keys import TRUSTED_FILE, generate
        from engines.repository.store import Repository
    except ImportError as error:
        say(f"signing left out: {error}")
        return
    with tempfile.TemporaryDirectory() as keys:
        key = generate(Path(keys))
        repository = Repository(root, Path(keys) / TRUSTED_FILE)
        features = read_manifest(REFERENCE).features
        cpu = repository.add(REFERENCE)
        for version in (cpu, *(folder.name for folder in folders)):
            pointer = repository.promote(version, key, force="a benchmark")
            opened = repository.open(version, features=features)
            told = "" if isinstance(opened, Artifact) else f", probed in {probe(opened).load_s} s"
            say(f"serving {pointer.serving}, previous {pointer.previous}{told}")
        if folders:
            say(f"rolled back to {repository.rollback().serving}")


def crash(artifact: Artifact, cache: Path) -> None:
    """Build what TensorRT 8.6 cannot load."""
    try:
        folder = build(artifact, Settings(precision="fp16", level=5), cache, timeout_s=500.0)
    except ModelError as error:
        say(f"FP16 at level 5 was refused: {error}")
    else:
        say(f"FP16 at level 5 loads here: {folder}")


def say(line: str) -> None:
    """Print at once: a run that is cut short still shows how far it came."""
    print(line, flush=True)


def run(options: argparse.Namespace) -> int:
    """Build, judge and release every engine; 1 if something could not be done."""
    artifact = read(REFERENCE, features=read_manifest(REFERENCE).features)
    traffic: Traffic = options.rows
    options.out.mkdir(parents=True, exist_ok=True)
    plan = Plan(seconds=options.energy) if options.energy else None
    built: dict[str, Path] = {}
    failed = False
    for precision in options.precisions:
        try:
            say(f"{precision}: building")
            name, _, level = precision.partition("@")
            sample = traffic.sample
            calibration = calibrate(artifact, sample.features, sample.history) if name == "int8" else None
            settings = Settings(precision=name, level=int(level or 3))
            began = time.perf_counter()
            folder = build(artifact, settings, options.cache, calibration=calibration, timeout_s=400.0)
            built[precision] = folder
            say(f"{precision}: {folder.name}, built and probed in {time.perf_counter() - began:.1f} s")
            took = probe(read_engine(folder, features=artifact.manifest.features))
            say(f"{precision}: probed again: {took.load_s} s, without a graph: {took.plain_buckets or 'none'}")
            judge(folder, traffic, built.get("fp32"), options.out, Options(energy=plan))
        except ModelError as error:  # as it must be said of INT8 by TensorRT 8.6, some of whose plans are wrong
            say(f"{precision}: refused: {error}")
            failed = True
        except Exception:  # reported, so that the others are still looked at
            traceback.print_exc()
            failed = True
    with tempfile.TemporaryDirectory() as copy:  # a verdict is written into the folder
        judge(Path(shutil.copytree(REFERENCE, Path(copy) / "cpu")), traffic, None, options.out, Options())
    release(options.cache, list(built.values()))
    if options.crash:
        crash(artifact, options.cache)
    return int(failed)


def main() -> int:
    """Read the command line and run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu_gate", description=(__doc__ or "")[:120])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--make", type=Path, nargs=2, metavar=("ROWS", "RECORDING"))
    what.add_argument("--rows", type=read_rows, metavar="ROWS")
    parser.add_argument(
        "--precisions", type=precisions, default="fp32,fp16,int8@2", help="fp16@2: at another level (%(default)s)"
    )
    parser.add_argument("--energy", type=amount, default=5.0, metavar="S", help="seconds of a window (%(default)g)")
    parser.add_argument("--crash", action="store_true", help="FP16 at level 5 as well: minutes")
    parser.add_argument("--cache", type=writable, default="var/engines", help="(%(default)s)")
    parser.add_argument("--out", type=writable, default=os.environ.get("OUT", "var"), help="(%(default)s)")
    options = parser.parse_args()
    try:
        if options.make:
            make(*options.make)
            return 0
        return run(options)
    except ModelError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
