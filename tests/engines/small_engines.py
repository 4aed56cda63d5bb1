"""Folders of engines and verdicts as the builder and the gate leave them, made without a GPU: their plans are text."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np

from engines.cpu import OnnxModel
from engines.folder import contents
from engines.gate.limits import Limits
from engines.gate.verdict import Accuracy, Check, Moves, Ranking, Speed, Timing, Verdict, write_verdict
from engines.manifest import Artifact
from engines.tensorrt.plan import (
    FACTS_FILE,
    KNOWN_FILE,
    PLAN_FILE,
    Engine,
    Facts,
    Gpu,
    Known,
    Settings,
    key,
    pack_known,
    read_engine,
)
from tests.engines import small_models

GPU = Gpu(name="Fake GPU", capability="9.0", multiprocessors=1, memory_gib=1, l2_mib=1)


def write(
    folder: Path, settings: Settings | None = None, *, plan: bytes = b"a plan", model: Artifact | None = None
) -> Path:
    """Write an engine's folder below `folder`, named as the builder names it, and return it."""
    model = model or small_models.artifact()
    settings = settings or Settings(buckets=(1, 8))
    manifest = msgspec.json.encode(model.manifest)
    name = key(model.onnx, manifest, "8.6.1", GPU, settings)
    made = small_models.write(folder / name[:16], model)
    facts = Facts(
        key=name,
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        onnx_sha256=model.manifest.sha256,
        tensorrt="8.6.1",
        gpu=GPU,
        settings=settings,
        driver="13.0",
        created="2022-01-01T00:00:00Z",
        build_s=1.0,
        plan_bytes=len(plan),
    )
    (made / PLAN_FILE).write_bytes(plan)
    (made / FACTS_FILE).write_bytes(msgspec.json.encode(facts))
    (made / KNOWN_FILE).write_bytes(pack_known(known(model)))
    return made


def known(model: Artifact) -> Known:
    """Return rows with the reference's scores."""
    rng = np.random.default_rng(2)
    features = rng.exponential(1.0, (4, model.manifest.n_features)).astype(np.float32)
    history = rng.exponential(1.0, (4, *model.manifest.history)).astype(np.float32)
    return Known(features, history, OnnxModel(model).infer(features, history))


def engine(folder: Path, settings: Settings | None = None) -> Engine:
    """Write an engine and read it back."""
    return read_engine(write(folder, settings), features=small_models.FINGERPRINT)


def verdict(folder: Path, *, passed: bool = True) -> Verdict:
    """Return a verdict on a folder as it is now."""
    ranking = Ranking(
        name="any",
        pr_auc=0.2,
        auc=0.8,
        recall_at_1pct=0.1,
        mean_over_base=1.0,
        calibration_error=0.1,
        reliability=(),
    )
    return Verdict(
        subject="small 1",
        files=contents(folder),
        judged="2022-02-02T00:00:00Z",
        machine="a machine",
        traffic="some traffic",
        against="",
        limits=Limits(),
        checks=(
            Check(name="one that passes", found="0", limit="at most 1", passed=True),
            Check(name="the other", found="2", limit="at most 1", passed=passed),
        ),
        accuracy=Accuracy(
            rows=10,
            events=10.0,
            tips=2,
            reference=ranking,
            candidate=ranking,
            serving=None,
            mean_shift=0.0,
            flips=(),
            flipped=0.0,
            max_change=0.0,
            p99_change=0.0,
            falling=0.0,
            value_change=0.0,
            change_edges=(0.0, 1e-7, 1.0),
            change_counts=(10, 0),
        ),
        moves=Moves(slot=0.0, neighbours={}, padding=0.0, bucket=0.0),
        speeds=(Speed(name="this version", timings=(Timing(size=1, p50_us=10, p99_us=20, per_second=1e5),)),),
        energy=None,
        energy_note="not asked for",
    )


def judged(folder: Path, *, passed: bool = True) -> Path:
    """Write a verdict into a folder and return the folder."""
    write_verdict(folder, verdict(folder, passed=passed))
    return folder
