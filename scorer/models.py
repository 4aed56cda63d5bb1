"""The models of one member: opened as configured, put on ladders, and kept on what the repository points to."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import TypeVar

from engines.background import background
from engines.comparison import Difference
from engines.deployment import Deployment
from engines.ladder import Ladder
from engines.lineup import Lineup, Place, away, make_rungs, open_lineup
from engines.making import Order, make
from engines.manifest import MANIFEST_FILE, Artifact, read
from engines.model import ModelError
from engines.repository.store import Repository
from engines.shadow import Shadow
from engines.tensorrt.plan import Engine
from features.events import Event
from scorer.config import Config
from scorer.config import Model as Settings
from scorer.gpu_watch import watch
from scorer.instruments import Labels
from scorer.lanes import DEFAULT_ARM, Challenge, Lane, Lanes
from scorer.metrics import Metrics

log = logging.getLogger(__name__)

_K = TypeVar("_K", bound=Hashable)


class Models:
    """Of the main lane and of an experiment. After the constructor, `start` comes first and `close` last."""

    def __init__(self, config: Config, fingerprint: str, folder: Path, metrics: Metrics) -> None:
        """`folder` holds the model that stands in on the CPU. Raises ModelError where a GPU is asked for in vain."""
        self._config = config
        self._print = fingerprint
        self._folder = folder
        self._metrics = metrics
        model = config.model
        self._place = Place(takes_gpu(model), model.device, model.sharing == "process", model.quota, model.agreement)
        self._repository = None if model.repository is None else Repository(model.repository, model.trusted_keys)
        waits = self._place.gpu and self._repository is not None
        self._stand_in = open_lineup("", read(folder, features=fingerprint), Place(), wanted=not waits)
        self.deployment: Deployment | None = None
        self._lanes: Lanes | None = None
        self._swaps = 0

    async def start(self) -> Lanes:
        """Put the models on ladders; those that the configuration names beside the main one must be there."""
        main = Ladder(make_rungs(self._stand_in, self._place), self._stand_in.last)
        if self._repository is not None:
            rungs = partial(make_rungs, place=self._place)
            opens = partial(self._version, self._repository)
            self.deployment = Deployment(main, self._repository, opens, rungs)
            await self.deployment.refresh()
        asked = self._config.experiment
        shadow = await self._shadow(asked.shadow) if asked.shadow else None
        routes = {}
        for route in asked.routes:
            value, _, name = route.partition("=")
            routes[value] = Lane(DEFAULT_ARM, await self._ladder(name))
        challenge = None
        if asked.challenger:
            challenge = Challenge(Lane(asked.arm, await self._ladder(asked.challenger)), asked.share, asked.salt)
        self._lanes = Lanes(
            Lane(DEFAULT_ARM, main, shadow), routes=routes, of=_field(asked.route_by), challenge=challenge
        )
        return self._lanes

    @property
    def lanes(self) -> Lanes:
        """Who answers for whom; once started."""
        if self._lanes is None:
            raise RuntimeError("the models were not started")
        return self._lanes

    async def run(self) -> None:
        """Follow the repository and watch the GPU, for ever."""
        async with asyncio.TaskGroup() as group:
            if self.deployment is not None:
                group.create_task(self.deployment.run(self._config.model.follow_ms / 1000))
            if self._place.gpu:
                group.create_task(self._make())
                group.create_task(watch(self._metrics, self._config.model.device))
            await asyncio.Event().wait()

    def report(self) -> None:
        """Tell the metrics how the models are; once a second."""
        metrics, told = self._metrics, version("tipstream")
        info: dict[Labels, float] = {}
        states: dict[Labels, float] = {}
        agreements: dict[Labels, float] = {}
        for lane in self.lanes:
            best = lane.ladder.best.manifest
            info[f"{best.name}:{best.version}", lane.ladder.best.engine, self._print, told] = 1.0
            for rung in lane.ladder.rungs:
                key = (rung.model.engine,)  # of several lanes perhaps: told is the worst
                states[key] = max(states.get(key, 0.0), float(rung.passed_over))
                if rung.guard is not None and rung.guard.agreement.latest is not None:
                    agreements[key] = min(agreements.get(key, 1.0), rung.guard.agreement.latest)
            for (engine, reason), count in _taken(lane.ladder.failures):
                metrics.model_failures.add(count, engine, reason)
            if lane.shadow is not None:
                for outcome, count in _taken(lane.shadow.rows):
                    metrics.shadow_rows.add(count, outcome)
        metrics.model.replace(info)
        metrics.breakers.replace(states)
        metrics.agreement.replace(agreements)
        if self.deployment is not None:
            metrics.swaps.add(self.deployment.swaps - self._swaps)
            self._swaps = self.deployment.swaps
            metrics.refused.set(bool(self.deployment.refused))

    async def close(self) -> None:
        """Close every model."""
        if self._lanes is None:
            self._stand_in.close()
        else:
            self._lanes.close()
        if self.deployment is not None:
            await self.deployment.close()

    async def _make(self) -> None:
        """Where no version serves, make one; the deployment sees that it was promoted."""
        model, deployment, repository = self._config.model, self.deployment, self._repository
        if deployment is None or repository is None or deployment.serving is not None or model.build == "off":
            return
        assert model.traffic is not None
        assert model.signing_key is not None
        from engines.tensorrt.cuda import choose  # of the extra for GPUs

        choose(model.device)  # for the processes that build and judge
        order = Order(read(self._folder, features=self._print), model.build, model.traffic, model.signing_key)
        try:
            await background(partial(make, order, repository, deployment.pointed))
        except (ModelError, OSError, RuntimeError) as error:  # no lock or no thread to be had, too
            log.error("No engine was made: %s", error)  # noqa: TRY400  a sentence, no traceback

    def _version(self, repository: Repository, name: str) -> Lineup:
        """Open the version that the repository points to, and beside it the second one."""
        opened, second = repository.open(name, features=self._print), self._config.model.second
        beside = bool(second) and repository.find(second) != name
        return self._lineup(name, opened, self._read(second) if beside else None)

    async def _ladder(self, name: str) -> Ladder:
        lineup = await background(lambda: self._lineup(name, self._read(name)))
        return Ladder(make_rungs(lineup, self._place), lineup.last)

    async def _shadow(self, name: str) -> Shadow:
        lineup = await background(lambda: self._lineup(name, self._read(name)))
        for member in lineup.members[1:]:
            member.model.close()
        return Shadow(away(lineup.members[0].model), self._compared)

    def _lineup(self, name: str, opened: Artifact | Engine, second: Artifact | Engine | None = None) -> Lineup:
        lineup = open_lineup(name, opened, self._place, second=second)
        most = self._config.batching.max_batch
        least = min(member.model.max_batch for member in lineup.members)
        if least < most:
            lineup.close()
            raise ModelError(
                f"Model {name} takes at most {least} rows at once, but batching.max_batch is {most}. Lower it, or "
                "build the engine with larger --buckets."
            )
        return lineup

    def _read(self, name: str) -> Artifact | Engine:
        """Read a version of the repository, by the beginning of its id, or the folder of an ONNX model."""
        if self._repository is None or (Path(name) / MANIFEST_FILE).exists():
            return read(Path(name), features=self._print)
        return self._repository.open(self._repository.find(name), features=self._print)

    def _compared(self, found: Difference) -> None:
        self._metrics.shadow_flips.add(found.flips)
        self._metrics.shadow_difference.observe_many(found.dp.astype(float))


def _taken(counts: Counter[_K]) -> Iterator[tuple[_K, int]]:
    """Empty a counter into what it held."""
    yield from counts.items()
    counts.clear()


def _field(name: str) -> Callable[[Event], str | None]:
    return attrgetter(name)


def takes_gpu(model: Settings) -> bool:
    """Whether TensorRT is to run what it can; raises ModelError where it must and cannot."""
    if model.backend == "cpu" or (model.backend == "auto" and model.repository is None):
        return False
    if model.repository is None:
        raise ModelError("model.backend is tensorrt, but there is no model.repository to take engines from. Set it.")
    missing = lacks_gpu(model.device)
    if missing and model.backend == "tensorrt":
        raise ModelError(f"model.backend is tensorrt, and TensorRT cannot run here: {missing}")
    return not missing


def lacks_gpu(device: str) -> str:
    """Return why TensorRT cannot run here; empty if it can."""
    absent = [name for name in ("tensorrt", "cuda", "pynvml") if find_spec(name) is None]
    if absent:
        return f"{' and '.join(absent)} cannot be imported. Install them: pip install 'tipstream[gpu]'"
    from engines.tensorrt.nvml import Nvml

    try:
        with Nvml(device):
            return ""
    except ModelError as error:
        return str(error)
