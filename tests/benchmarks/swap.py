"""Another version begins to serve while batches keep coming: how long nobody is answered, and whether anybody never is.

python -m tests.benchmarks.swap [--gpu [--own]] [--rate 1250] [--rows 8] [--swaps 10]
python -m tests.benchmarks.swap --prepare FOLDER [--gpu]    (only makes FOLDER/versions and FOLDER/keys, for other runs)

A repository of two versions, the ladder and the deployment as the service has them, and batches at even times on the
service's kind of event loop. First the second version is promoted: it is probed, loaded, recorded and swapped in beside
the traffic. Then it goes back and forth, which only changes pointers. On the CPU the two are the
reference model under two names, with --gpu they are engines of it in FP32 and FP16. Figures go to FOLDER/swap.json.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import uvloop

import engines
from engines.commands.numbers import positive
from engines.deployment import Deployment
from engines.ladder import Answer, Ladder
from engines.lineup import Lineup, Place, make_rungs, open_lineup
from engines.manifest import MANIFEST_FILE, ONNX_FILE, Artifact, read, read_manifest
from engines.model import BUCKETS, ModelError
from engines.repository.keys import TRUSTED_FILE, generate
from engines.repository.store import Repository
from scorer import garbage
from tests.benchmarks.arguments import from_one, writable
from tests.benchmarks.gpu import Figures, rows, say

REFERENCE: Final = Path(engines.__file__).parent / "models" / "reference"
_QUIET_S: Final = 2.0  # around a change
_FOLLOW_S: Final = 0.05


class Traffic:
    """Batches that keep coming, and when each was answered, by what."""

    def __init__(self, ladder: Ladder, artifact: Artifact, rate: float, n: int) -> None:
        self._ladder, self._rate = ladder, rate
        self._sets = [rows(artifact, n, seed) for seed in range(8)]
        self.asked = 0
        self.answered: list[tuple[float, str, str]] = []  # when, engine, mode
        self.took: list[tuple[float, float]] = []  # when it came, seconds to its answer

    async def run(self, stop: asyncio.Event) -> None:
        """Ask at even times, however slow the answers are, until told to stop; then wait for all of them."""
        due, waiting = time.perf_counter(), set[asyncio.Task[None]]()
        while not stop.is_set():
            due += 1 / self._rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            task = asyncio.create_task(self._ask(due))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
        await asyncio.gather(*waiting)

    async def _ask(self, due: float) -> None:
        self.asked += 1
        answer: Answer = await self._ladder.infer(*self._sets[self.asked % len(self._sets)])
        now = time.perf_counter()
        self.answered.append((now, answer.model.engine, answer.mode))
        self.took.append((due, now - due))

    def gap_ms(self, start: float, end: float) -> float:
        """Longest time without an answer."""
        times = [when for when, _, _ in self.answered if start <= when < end]
        return round(float(np.diff([start, *times, end]).max()) * 1e3, 3)

    def slowest_ms(self, start: float, end: float) -> float:
        """Longest that a batch which came in a span of time waited for its answer."""
        return round(max(took for due, took in self.took if start <= due < end) * 1e3, 3)


def versions(repository: Repository, folder: Path, artifact: Artifact, cache: Path | None, *, gpu: bool) -> list[str]:
    """Put two versions in; engines come from `cache` if they were built before."""
    if gpu:
        from engines.tensorrt.build import build
        from engines.tensorrt.plan import Settings

        settings = [Settings(), Settings(precision="fp16")]
        return [repository.add(build(artifact, each, cache or repository.root)) for each in settings]
    found = []
    for name in ("one", "two"):
        made = folder / name
        made.mkdir()
        (made / ONNX_FILE).write_bytes(artifact.onnx)
        (made / MANIFEST_FILE).write_bytes(
            msgspec.json.encode(msgspec.structs.replace(artifact.manifest, version=name))
        )
        found.append(repository.add(made))
    return found


def prepare(folder: Path, cache: Path | None, *, gpu: bool) -> None:
    """Make a repository with two signed versions, the first serving and the second the way back."""
    folder.mkdir(parents=True)
    artifact = read(REFERENCE, features=read_manifest(REFERENCE).features)
    key = generate(folder / "keys")
    repository = Repository(folder / "versions", folder / "keys" / TRUSTED_FILE)
    for version in reversed(versions(repository, folder, artifact, cache, gpu=gpu)):
        repository.promote(version, key, force="benchmark")
    say(f"{repository.root} serves {repository.pointer().serving}, and before it {repository.pointer().previous}")


async def measure(options: argparse.Namespace, folder: Path) -> Figures:
    """Promote, go back and forth, and look at what the traffic saw."""
    artifact = read(REFERENCE, features=read_manifest(REFERENCE).features)
    key = generate(folder / "keys")
    repository = Repository(folder / "versions", folder / "keys" / TRUSTED_FILE)
    first, second = await asyncio.to_thread(
        partial(versions, repository, folder, artifact, options.cache, gpu=options.gpu)
    )
    place = Place(gpu=options.gpu, shared=not options.own)

    def opens(version: str) -> Lineup:
        return open_lineup(version, repository.open(version, features=artifact.manifest.features), place)

    start = open_lineup("", artifact, Place())
    ladder = Ladder(make_rungs(start, place), start.last)
    deployment = Deployment(ladder, repository, opens, partial(make_rungs, place=place))
    repository.promote(first, key, force="benchmark")
    await deployment.refresh()
    say(f"serving {ladder.best.engine}")
    garbage.take_over()
    following = asyncio.create_task(deployment.run(_FOLLOW_S))
    traffic, stop = Traffic(ladder, artifact, options.rate, options.rows), asyncio.Event()
    moving = asyncio.create_task(traffic.run(stop))
    await asyncio.sleep(_QUIET_S)

    async def change(how: str) -> Figures:
        """Have another version serve; figures from the wish to `_QUIET_S` after its fulfilment."""
        swaps, began = deployment.swaps, time.perf_counter()
        if how == "promote":
            await asyncio.to_thread(partial(repository.promote, second, key, force="benchmark"))
        else:
            await asyncio.to_thread(repository.rollback)
        asked = time.perf_counter()
        while deployment.swaps == swaps:  # noqa: ASYNC110  it looks at the pointer by itself
            await asyncio.sleep(0.001)
        done = time.perf_counter()
        await asyncio.sleep(_QUIET_S)
        end = time.perf_counter()
        return {
            "what": how,
            "now": ladder.best.engine,
            "took_s": round(done - asked, 3),
            "longest_gap_ms": traffic.gap_ms(began, end),
            "slowest_batch_ms": traffic.slowest_ms(began, end),
        }

    quiet = {"what": "nothing", "longest_gap_ms": traffic.gap_ms(time.perf_counter() - _QUIET_S, time.perf_counter())}
    changes = [quiet, await change("promote")]
    for line in changes:
        say(str(line))
    for _ in range(options.swaps):
        changes.append(await change("rollback"))
        say(str(changes[-1]))
    stop.set()
    await moving
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    ladder.close()
    await deployment.close()
    by_model: dict[str, int] = {}
    for _, engine, mode in traffic.answered:
        by_model[f"{engine} {mode}"] = by_model.get(f"{engine} {mode}", 0) + 1
    return {
        "changes": changes,
        "asked": traffic.asked,
        "lost": traffic.asked - len(traffic.answered),
        "not_full": sum(mode != "full" for _, _, mode in traffic.answered),
        "answers": by_model,
        "failures": {f"{engine} {why}": count for (engine, why), count in ladder.failures.items()},
    }


def main() -> int:
    """Measure, print, save; 1 if a batch was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.swap", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--gpu", action="store_true", help="TensorRT engines instead of ONNX Runtime")
    parser.add_argument("--own", action="store_true", help="load engines in this process, not in one of their own")
    parser.add_argument("--rate", type=from_one, default=1250.0, help="batches a second (%(default)g)")
    parser.add_argument("--rows", type=positive, default=8, help="rows a batch (%(default)s)")
    parser.add_argument("--swaps", type=positive, default=10, help="how often it goes back and forth (%(default)s)")
    parser.add_argument(
        "--prepare", type=writable, metavar="FOLDER", help="make the repository there and measure nothing"
    )
    parser.add_argument("--cache", type=writable, help="where engines are kept once built")
    parser.add_argument("--out", type=writable, default=os.environ.get("OUT", "var"), help="for swap.json")
    options = parser.parse_args()
    if options.rows > BUCKETS[-1]:
        parser.error(f"--rows must be {BUCKETS[-1]} or less: the model takes no more at a time")
    if options.prepare and options.prepare.exists():
        parser.error(f"--prepare makes a new folder, and {options.prepare} is there already")
    try:
        if options.prepare:
            prepare(options.prepare, options.cache, gpu=options.gpu)
            return 0
        with tempfile.TemporaryDirectory(prefix="tipstream-swap-") as folder:
            found = uvloop.run(measure(options, Path(folder)))
    except ModelError as error:
        raise SystemExit(str(error)) from None
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "swap.json").write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2))
    say(str({name: value for name, value in found.items() if name != "changes"}))
    return int(found["lost"] > 0)


if __name__ == "__main__":
    sys.exit(main())
