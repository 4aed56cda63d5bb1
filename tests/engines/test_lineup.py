"""Which models make up a ladder."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from engines import lineup
from engines.cpu import OnnxModel
from engines.lineup import Place, make_rungs, open_lineup
from engines.manifest import Artifact
from engines.model import ModelError, Scores
from engines.prior import PriorModel
from engines.tensorrt.plan import Engine, Precision, Settings, read_engine
from engines.worker import InlineWorker, ModelWorker
from tests.engines import small_engines, small_models

ARTIFACT = small_models.artifact()
CPU, GPU = Place(), Place(gpu=True, quota=3, agreement=0.97)


class OnGpu(PriorModel):
    """Stands in for the runner of an engine, which needs a GPU."""

    loaded: ClassVar[list[OnGpu]] = []

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.manifest)
        self.engine = engine.facts.settings.precision
        self.closed = False
        self.loaded.append(self)

    def infer(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Scores:
        raise ModelError("no GPU")

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    OnGpu.loaded = []
    monkeypatch.setattr(lineup, "_load", lambda engine, place: OnGpu(engine))


def engine(folder: Path, precision: Precision) -> Engine:
    made = small_engines.write(folder, Settings(precision=precision, buckets=(1, 8)))
    return read_engine(made, features=small_models.FINGERPRINT)


def names(opened: Artifact | Engine, place: Place, **options: object) -> list[str]:
    found = open_lineup("v", opened, place, **options)  # type: ignore[arg-type]
    told = [f"{member.model.engine.partition(':')[0]} {member.mode}" for member in found.members]
    found.close()
    return told


def test_a_model_without_a_plan_runs_on_the_cpu() -> None:
    assert names(ARTIFACT, CPU) == names(ARTIFACT, GPU) == ["cpu full"]


def test_what_stands_in_says_so() -> None:
    assert names(ARTIFACT, CPU, wanted=False) == ["cpu fallback"]


def test_an_engine_stands_on_the_same_model_on_the_cpu(tmp_path: Path) -> None:
    assert names(engine(tmp_path, "fp32"), GPU) == ["fp32 full", "cpu fallback"]


def test_without_a_gpu_an_engines_folder_is_a_models(tmp_path: Path) -> None:
    assert names(engine(tmp_path, "fp32"), CPU, second=engine(tmp_path, "fp16")) == ["cpu full"]


def test_the_second_comes_between(tmp_path: Path) -> None:
    found = names(engine(tmp_path, "fp32"), GPU, second=engine(tmp_path, "fp16"))
    assert found == ["fp32 full", "fp16 fallback", "cpu fallback"]


def test_a_second_model_comes_last_on_the_cpu(tmp_path: Path) -> None:
    lighter = small_models.artifact(value_scale=1.0)
    found = open_lineup("v", engine(tmp_path, "fp32"), GPU, second=lighter)
    assert [member.model.manifest.sha256 for member in found.members[1:]] == [
        ARTIFACT.manifest.sha256,
        lighter.manifest.sha256,
    ]
    found.close()


async def test_int8_alone_is_held_to_the_second(tmp_path: Path) -> None:
    cases: tuple[tuple[Precision, bool], ...] = (("int8", True), ("fp16", False))
    for precision, guarded in cases:
        found = open_lineup(
            "v",
            engine(tmp_path / precision, precision),
            GPU,
            second=engine(tmp_path, "fp32"),
        )
        rungs = make_rungs(found, GPU)
        assert [rung.guard is not None for rung in rungs] == [guarded, False, False]
        if rungs[0].guard:
            assert rungs[0].guard.least == 0.97
        for rung in rungs:
            rung.worker.close()


async def test_a_gpu_gets_a_thread_and_a_limit_and_the_cpu_the_loop(tmp_path: Path) -> None:
    first, cpu = make_rungs(open_lineup("v", engine(tmp_path, "fp32"), GPU), GPU)
    assert isinstance(first.worker, ModelWorker)
    assert isinstance(cpu.worker, InlineWorker)
    assert first.timeout_s is not None
    assert cpu.timeout_s is None
    for rung in (first, cpu):
        rung.worker.close()


def test_a_lineup_that_does_not_come_about_leaves_nothing_loaded(tmp_path: Path) -> None:
    broken = Artifact(ARTIFACT.manifest, b"no model")
    with pytest.raises(ModelError, match="cannot load model"):
        open_lineup("v", engine(tmp_path, "fp32"), GPU, second=broken)
    assert [model.closed for model in OnGpu.loaded] == [True]


def test_the_prior_is_the_versions_own() -> None:
    found = open_lineup("v", ARTIFACT, CPU)
    assert found.last.manifest is found.manifest is ARTIFACT.manifest
    assert isinstance(found.members[0].model, OnnxModel)
    found.close()
