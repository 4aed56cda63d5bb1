"""The models of one version, best first, opened: what a ladder is made of."""

from __future__ import annotations

from typing import Final, NamedTuple

from engines.fed import FedModel, FedWorker, feed
from engines.folder import load
from engines.ladder import Guard, Mode, Rung
from engines.manifest import Artifact, Manifest
from engines.model import Model
from engines.prior import PriorModel
from engines.tensorrt.plan import Engine
from engines.tensorrt.probe import probe
from engines.worker import InlineWorker, ModelWorker, Worker

#: Far above any batch on a GPU, far below an event's 50 ms: what takes longer is not worth waiting for.
_PATIENCE_S: Final = 0.02


class Place(NamedTuple):
    """Where models run, and how."""

    gpu: bool = False
    """Whether TensorRT runs what it can; else ONNX Runtime runs everything."""
    device: str = ""
    """The GPU's number or UUID, or a MIG instance's UUID."""
    shared: bool = True
    """Whether one process of the machine has an engine and all workers feed it; else each loads it for itself."""
    quota: int = 2
    """Batches of one model that may be on the GPU or wait for it at a time."""
    agreement: float = 0.99
    """Least share of rows on which an INT8 engine must name the same tier as the engine below it."""


class Member(NamedTuple):
    """A model and what runs it."""

    model: Model
    mode: Mode
    on_gpu: bool
    guarded: bool = False


class Lineup(NamedTuple):
    """Models of one version, the best first, and the prior, which cannot fail."""

    version: str
    members: tuple[Member, ...]
    last: Model

    @property
    def manifest(self) -> Manifest:
        """Of the version's model."""
        return self.last.manifest

    def close(self) -> None:
        """Close models that no rung has taken over."""
        for member in self.members:
            member.model.close()
        self.last.close()


def open_lineup(
    version: str,
    opened: Artifact | Engine,
    place: Place,
    *,
    second: Artifact | Engine | None = None,
    wanted: bool = True,
) -> Lineup:
    """Load what was read of a version; raises ModelError. Blocks, on a GPU for seconds: call it in a thread.

    An engine is loaded by the process that owns it or, where it is not shared, in a child first and only then here:
    either may die of it. `second` answers when the first cannot: a lighter engine, or the FP16 one beside INT8. Below
    them the same model runs on the CPU. `wanted=False` says that all of it stands in for what is not there yet.
    """
    members: list[Member] = []

    def take(model: Model, *, on_gpu: bool, guarded: bool = False) -> None:
        members.append(Member(model, "fallback" if members or not wanted else "full", on_gpu, guarded))

    artifact = opened.artifact if isinstance(opened, Engine) else opened
    try:
        if place.gpu and isinstance(opened, Engine):
            exact = isinstance(second, Engine) and opened.facts.settings.precision == "int8"
            take(_load(opened, place), on_gpu=True, guarded=exact)
        if place.gpu and isinstance(second, Engine):
            take(_load(second, place), on_gpu=True)
        take(load(artifact), on_gpu=False)
        if isinstance(second, Artifact):
            take(load(second), on_gpu=False)
        return Lineup(version, tuple(members), PriorModel(artifact.manifest))
    except BaseException:
        for member in members:
            member.model.close()
        raise


def make_rungs(lineup: Lineup, place: Place) -> list[Rung]:
    """Give each model who runs it: the loop itself on the CPU; for the GPU, where a call may hang, somebody else."""
    rungs = []
    for model, mode, on_gpu, guarded in lineup.members:
        worker = away(model) if on_gpu else InlineWorker(model)
        guard = Guard(place.agreement) if guarded else None
        patience_s = _PATIENCE_S if on_gpu else None
        rungs.append(Rung(mode, worker, patience_s, quota=place.quota if on_gpu else None, guard=guard))
    return rungs


def away(model: Model) -> Worker:
    """Give a model who runs it away from the loop: the process that has it, or else a thread."""
    return FedWorker(model) if isinstance(model, FedModel) else ModelWorker(model)


def _load(engine: Engine, place: Place) -> Model:
    """Have an engine run by the process that owns it, or, once a child has tried that, here."""
    if place.shared:
        return feed(engine, device=place.device, places=place.quota)
    probe(engine, device=place.device)
    from engines.tensorrt.cuda import choose  # the child would have said that the package is missing

    choose(place.device)
    return load(engine)
