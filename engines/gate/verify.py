"""The gate itself: load a version, put it to every test, and give the verdict."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from engines.cpu import OnnxModel
from engines.folder import contents, load, read_either
from engines.gate import accuracy, checks, energy, invariance, speed
from engines.gate.accuracy import Sample
from engines.gate.limits import Limits
from engines.gate.traffic import Traffic
from engines.gate.verdict import Energy, Verdict
from engines.manifest import Artifact, read_manifest
from engines.model import Model, ModelError
from engines.tensorrt.plan import Engine
from engines.tensorrt.probe import probe

RUNS: Final = 300
_LOOKED_AT: Final = 1024  # rows whose place in the batch is varied, and that are timed


class Options(NamedTuple):
    """How thorough to be."""

    limits: Limits = Limits()
    runs: int = RUNS
    """Calls a block and bucket: five blocks make a figure."""
    energy: energy.Plan | None = None
    """None leaves energy out."""


def verify(
    folder: Path,
    traffic: Traffic,
    *,
    against: Path | None = None,
    exact: Path | None = None,
    options: Options | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Verdict:
    """Put the model or engine in `folder` to the test and return the verdict; raises ModelError if it cannot run.

    `against` is the version that serves; `exact` is the FP32 engine of the same model, which FP16 and INT8 are held
    against. An engine is loaded in a child process first. Nothing is written.
    """
    options = options or Options()
    fingerprint = read_manifest(folder).features
    judged = contents(folder)
    with ExitStack() as stack:
        opened, candidate = stack.enter_context(loaded(folder, fingerprint, progress))
        artifact = opened if isinstance(opened, Artifact) else opened.artifact
        lowered = isinstance(opened, Engine) and opened.facts.settings.precision != "fp32"
        reference = OnnxModel(artifact)
        stack.callback(reference.close)
        named, serving, rival = _rival(stack, folder, against, fingerprint, artifact, progress)
        models = [("this version", candidate), *([("serving", serving)] if serving else [])]
        if lowered and exact is not None:
            models.append(("FP32 engine", stack.enter_context(loaded(exact, fingerprint, progress))[1]))

        sample = traffic.sample
        progress("comparing with the FP32 reference")
        found = accuracy.judge(
            artifact.manifest,
            sample,
            accuracy.scores(reference, sample),
            accuracy.scores(candidate, sample),
            accuracy.scores(serving, sample) if serving and rival else None,
        )
        progress("moving rows about")
        features, history = _spread(sample)
        moved = invariance.moves(candidate, features, history)
        timed = speed.measure(models, features, history, runs=options.runs, progress=progress)
        speeds = dict(zip((name for name, _ in models), timed, strict=True))
        spent, note = _energy(candidate, isinstance(opened, Engine), (features, history), options.energy, progress)
        same_device = serving is not None and isinstance(serving, OnnxModel) == isinstance(candidate, OnnxModel)
        return Verdict(
            subject=describe(opened),
            files=judged,
            judged=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            machine=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            traffic=traffic.source,
            against=named,
            limits=options.limits,
            checks=checks.check(
                options.limits,
                found,
                moved,
                speeds["this version"],
                gpu=isinstance(opened, Engine),
                serving=speeds["serving"] if same_device else None,
                lowered=lowered,
                exact=speeds.get("FP32 engine"),
            ),
            accuracy=found,
            moves=moved,
            speeds=tuple(speeds.values()),
            energy=spent,
            energy_note=note,
        )


def _spread(sample: Sample) -> speed.Rows:
    """Return rows from all over the recording: the early ones know little of anybody."""
    at = np.linspace(0, len(sample.weight) - 1, _LOOKED_AT).astype(np.intp)
    return sample.features[at], sample.history[at]


@contextmanager
def loaded(folder: Path, features: str, progress: Callable[[str], None]) -> Iterator[tuple[Artifact | Engine, Model]]:
    opened = read_either(folder, features=features)
    if isinstance(opened, Engine):
        progress(f"loading {folder} in a process of its own")
        probe(opened)
    model = load(opened)
    try:
        yield opened, model
    finally:
        model.close()


def _rival(
    stack: ExitStack,
    folder: Path,
    against: Path | None,
    features: str,
    artifact: Artifact,
    progress: Callable[[str], None],
) -> tuple[str, Model | None, bool]:
    """Return the serving version in words, loaded if its rows are the same, and whether it is of another model."""
    if against is None or against.resolve() == folder.resolve():
        return "", None, False
    try:
        manifest = read_manifest(against)
        if manifest.features != features:
            return f"{against.name}, which takes other features: not compared", None, False
        opened, model = stack.enter_context(loaded(against, features, progress))
    except ModelError as error:  # made for another machine, say, or damaged
        return f"{against.name}, which does not run here: not compared ({error})", None, False
    return f"{against.name}: {describe(opened)}", model, manifest.sha256 != artifact.manifest.sha256


def _energy(
    candidate: Model, gpu: bool, rows: speed.Rows, plan: energy.Plan | None, progress: Callable[[str], None]
) -> tuple[Energy | None, str]:
    if plan is None:
        return None, "not asked for"
    progress(f"measuring energy: {(plan.windows + 1) * plan.seconds:.0f} s")
    size = min(plan.size, candidate.max_batch)
    try:
        counter = energy.gpu_counter() if gpu else energy.cpu_counter()
        return energy.measure(candidate, counter, [(rows[0][:size], rows[1][:size])], plan._replace(size=size)), ""
    except ModelError as error:
        return None, str(error)


def describe(opened: Artifact | Engine) -> str:
    """Say in words what was opened."""
    manifest = opened.manifest
    name = f"{manifest.name} {manifest.version}"
    if isinstance(opened, Artifact):
        return f"{name} on the CPU (ONNX Runtime)"
    facts = opened.facts
    return f"{name}, {facts.settings.precision} for {facts.gpu} (TensorRT {facts.tensorrt})"
