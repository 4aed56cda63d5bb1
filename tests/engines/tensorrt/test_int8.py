"""INT8: what it is calibrated on, what it is tested on, and who answers where that no longer fits."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

import engines
from engines.cpu import OnnxModel
from engines.ladder import Guard, Ladder, Rung
from engines.manifest import Artifact, Tier, read, read_manifest
from engines.model import Model, ModelError
from engines.prior import PriorModel
from engines.tensorrt import precision
from engines.tensorrt.build import build, draw
from engines.tensorrt.calibrate import Calibration, calibrate, read_calibration
from engines.tensorrt.plan import Precision, Settings
from engines.worker import ModelWorker
from tests.engines import small_models
from tests.engines.gate import made
from tests.engines.gate.made import Batch

REFERENCE = Path(engines.__file__).parent / "models" / "reference"
TOLERANCE = 0.1  # of an INT8 engine's test when it is loaded
ROWS = 256


@pytest.fixture(scope="module")
def reference() -> Artifact:
    """With a tier for every tenth of the rows with a history; of those without, few lie near a threshold."""
    artifact = read(REFERENCE, features=read_manifest(REFERENCE).features)
    p_tip = OnnxModel(artifact).infer(*traffic(artifact, known=True)).p_tip[:, -1]
    bounds = [0.0, *np.quantile(p_tip, np.arange(1, 10) / 10).tolist()]
    tiers = tuple(Tier(f"tenth {number}", bound) for number, bound in enumerate(bounds))
    return artifact._replace(manifest=msgspec.structs.replace(artifact.manifest, tiers=tiers))


def traffic(model: Artifact, *, known: bool) -> Batch:
    """Rows of quiet viewers: with their history, or of the day on which nobody had one."""
    features, history = draw(model.manifest, ROWS)
    return features * np.float32(0.05), history * np.float32(known)


def on_cpu(model: Artifact, which: Precision, calibration: Calibration | None, cache: Path) -> Model:
    """What TensorRT is given for INT8, run by ONNX Runtime; FP32 in place of FP16."""
    onnx = precision.quantised(model.onnx, calibration.ranges) if calibration else model.onnx
    return OnnxModel(Artifact(model.manifest, onnx))


def on_gpu(model: Artifact, which: Precision, calibration: Calibration | None, cache: Path) -> Model:
    runner = pytest.importorskip("engines.tensorrt.runner", reason="needs an NVIDIA GPU and TensorRT")
    settings = Settings(precision=which, buckets=(ROWS,), level=1)
    folder = build(model, settings, cache, calibration=calibration)
    loaded: Model = runner.TensorRTRunner.load(folder, features=model.manifest.features)
    return loaded


@pytest.mark.parametrize("load", [on_cpu, pytest.param(on_gpu, marks=pytest.mark.gpu)])
async def test_int8_gives_way_where_traffic_leaves_what_it_was_calibrated_on(
    reference: Artifact, tmp_path: Path, load: Callable[[Artifact, Precision, Calibration | None, Path], Model]
) -> None:
    calm, other = traffic(reference, known=False), traffic(reference, known=True)
    int8 = load(reference, "int8", calibrate(reference, *calm), tmp_path)
    half = load(reference, "fp16", None, tmp_path)
    guard = Guard(0.97, every=1, rows=ROWS)
    ladder = Ladder(
        [Rung("full", ModelWorker(int8), 10.0, guard=guard), Rung("fallback", ModelWorker(half), 10.0)],
        PriorModel(reference.manifest),
    )

    async def answered(batch: Batch) -> Model:
        answer = await ladder.infer(*batch)
        async with asyncio.timeout(10):
            while any(rung.worker.busy for rung in ladder.rungs):  # noqa: ASYNC110 -- their threads say when
                await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0)
        return answer.model

    try:
        assert [await answered(calm) for _ in range(8)] == [int8] * 8
        assert guard.agreement.latest is not None
        assert guard.agreement.latest >= 0.97
        async with asyncio.timeout(30):
            while await answered(other) is int8:
                pass
        assert guard.agreement.latest < 0.5
        assert await answered(other) is half
        assert set(ladder.failures) == {(int8.engine, "disagreement")}
    finally:
        ladder.close()


def test_it_is_tested_on_rows_of_its_traffic_and_not_on_made_up_ones(reference: Artifact) -> None:
    calibration = calibrate(reference, *traffic(reference, known=False))
    low = Artifact(reference.manifest, precision.quantised(reference.onnx, calibration.ranges))

    def off(*batch: np.ndarray) -> float:
        return float(np.abs(OnnxModel(low).infer(*batch).p_tip - OnnxModel(reference).infer(*batch).p_tip).max())

    assert off(calibration.features, calibration.history) < TOLERANCE / 4
    assert off(*draw(reference.manifest, 64)) > TOLERANCE


def test_the_rows_are_the_likeliest_and_some_have_little_history(reference: Artifact) -> None:
    features, history = traffic(reference, known=True)
    found = calibrate(reference, features, history)
    p_tip = OnnxModel(reference).infer(features, history).p_tip[:, -1]
    likeliest = np.argsort(-p_tip, kind="stable")[:64]
    np.testing.assert_array_equal(found.features, features[likeliest])
    np.testing.assert_array_equal(found.history[0], history[likeliest[0]])
    known = found.history.any(axis=2).sum(axis=1)
    length = reference.manifest.history[0]
    assert (known[32:] <= length // 2).all()
    assert (known[48:] <= length // 4).all()
    assert history.any(axis=2).sum() > found.history.any(axis=2).sum(), "the traffic itself keeps its histories"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, r"holds 3,000 rows; calibration needs 32,000. Record more"),
        ({"features": "ffff"}, "by feature catalogue f"),
    ],
)
def test_too_little_or_other_traffic_calibrates_nothing(tmp_path: Path, change: dict[str, str], words: str) -> None:
    folder = made.shards(tmp_path / "set", **change)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=words):
        read_calibration(small_models.artifact(), folder)


def test_without_the_package_onnx_it_is_told_what_to_install() -> None:
    script = (
        "import sys; sys.modules['onnx'] = None; from engines.cli import main\n"
        "sys.exit(main(['build', sys.argv[1], '--precision', 'int8', '--traffic', 'any']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(REFERENCE)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "needs onnx, which is not installed" in done.stderr
    assert "pip install 'tipstream[gpu]'" in done.stderr
