"""The models of a member: what the configuration asks for, on ladders, and told to the metrics."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest

from engines import fed
from engines.breaker import Breaker
from engines.cpu import OnnxModel
from engines.fed import FedWorker, feed
from engines.folder import load
from engines.manifest import MANIFEST_FILE, ONNX_FILE, Artifact, read, read_manifest
from engines.model import Model as EngineModel
from engines.model import ModelError
from engines.repository.keys import TRUSTED_FILE, SigningKey, generate
from engines.repository.store import Repository
from engines.tensorrt.build import build
from engines.tensorrt.plan import Engine, Settings
from features.catalogue import HISTORY_LENGTH, N_CHANNELS, N_FEATURES, fingerprint
from features.events import Event
from scorer import check
from scorer.config import Batching, Config, ConfigError, Experiment, Model
from scorer.metrics import Metrics
from scorer.models import Models
from scorer.service import REFERENCE_MODEL
from tests.engines import small_engines


class Shelf:
    """A repository, and folders of the reference model under other names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key: SigningKey = generate(folder / "keys")
        self.repository = Repository(folder / "versions", folder / "keys" / TRUSTED_FILE)
        self.settings: dict[str, Any] = {
            "repository": self.repository.root,
            "trusted_keys": folder / "keys" / TRUSTED_FILE,
        }

    def model(self, name: str) -> Path:
        made = self.folder / name
        made.mkdir()
        manifest = msgspec.structs.replace(read_manifest(REFERENCE_MODEL), version=name)
        (made / MANIFEST_FILE).write_bytes(msgspec.json.encode(manifest))
        (made / ONNX_FILE).write_bytes((REFERENCE_MODEL / ONNX_FILE).read_bytes())
        return made

    def promote(self, name: str) -> str:
        version = self.repository.add(self.model(name))
        self.repository.promote(version, self.key, force="a test")
        return version


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@asynccontextmanager
async def started(metrics: Metrics | None = None, **sections: Any) -> AsyncIterator[Models]:
    models = Models(Config(**sections), fingerprint(), REFERENCE_MODEL, metrics or Metrics())
    try:
        await models.start()
        yield models
    finally:
        await models.close()


async def answers(models: Models, **fields: Any) -> set[tuple[str, str, str]]:
    """Version, mode and arm of the scores of some events."""
    events = [Event(f"e{i}", "comment", 1, "r", "s", viewer_id=f"v{i}", **fields) for i in range(64)]
    n = len(events)
    features = np.zeros((n, N_FEATURES), np.float32)
    parts = await models.lanes.infer(events, features, np.zeros((n, HISTORY_LENGTH, N_CHANNELS), np.float32))
    return {(part.answer.model.manifest.version, part.answer.mode, part.arm) for part in parts}


async def test_without_a_repository_the_model_in_path_is_the_full_one() -> None:
    async with started() as models:
        assert await answers(models) == {("1", "full", "default")}


async def test_the_promoted_version_serves_and_until_there_is_one_the_model_in_path(shelf: Shelf) -> None:
    metrics = Metrics()
    async with started(metrics, model=Model(**shelf.settings, backend="cpu")) as models:
        assert await answers(models) == {("1", "full", "default")}
        shelf.promote("new")
        assert models.deployment is not None
        await models.deployment.refresh()
        assert await answers(models) == {("new", "full", "default")}
        models.report()
    page = metrics.render().decode()
    assert 'model="tip-intent-reference:new"' in page
    assert 'model="tip-intent-reference:1"' not in page
    assert "tipstream_model_swaps_total 1.0" in page
    assert "tipstream_model_refused 0.0" in page


async def test_a_version_that_was_changed_is_refused_and_said(shelf: Shelf) -> None:
    version = shelf.promote("new")
    (shelf.repository.folder(version) / ONNX_FILE).write_bytes(b"something else")
    metrics = Metrics()
    async with started(metrics, model=Model(**shelf.settings, backend="cpu")) as models:
        assert await answers(models) == {("1", "full", "default")}
        models.report()
    assert "tipstream_model_refused 1.0" in metrics.render().decode()


async def test_a_model_that_is_passed_over_shows(shelf: Shelf) -> None:
    shelf.promote("new")
    metrics = Metrics()
    async with started(metrics, model=Model(**shelf.settings, backend="cpu")) as models:
        (rung,) = models.lanes.main.ladder.rungs
        line = f'tipstream_breaker_open{{engine="{rung.model.engine}"}}'
        models.report()
        assert f"{line} 0.0" in metrics.render().decode()
        rung.breaker.trip(0.0)
        models.report()
        assert f"{line} 1.0" in metrics.render().decode()


async def test_of_two_lanes_with_one_model_the_one_that_is_passed_over_shows() -> None:
    metrics, same = Metrics(), str(REFERENCE_MODEL)
    experiment = Experiment(route_by="category", routes=(f"music={same}",))
    async with started(metrics, experiment=experiment) as models:
        for lane in models.lanes:
            (rung,) = lane.ladder.rungs
            rung.breaker.trip(0.0)
            models.report()
            assert f'tipstream_breaker_open{{engine="{rung.model.engine}"}} 1.0' in metrics.render().decode()
            rung.breaker = Breaker()


async def test_it_follows_by_itself(shelf: Shelf) -> None:
    async with started(model=Model(**shelf.settings, backend="cpu", follow_ms=10)) as models:
        running = asyncio.create_task(models.run())
        await asyncio.to_thread(shelf.promote, "new")
        async with asyncio.timeout(10):
            while models.lanes.main.ladder.best.manifest.version != "new":  # noqa: ASYNC110 -- it looks by itself
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_an_experiment_as_configured(shelf: Shelf) -> None:
    names = {name: str(shelf.model(name)) for name in ("new", "music", "watched")}
    experiment = Experiment(
        challenger=names["new"],
        share=0.5,
        arm="b",
        shadow=names["watched"],
        route_by="category",
        routes=(f"music={names['music']}",),
    )
    metrics = Metrics()
    async with started(metrics, experiment=experiment) as models:
        assert await answers(models, category="music") == {("music", "full", "default")}
        assert await answers(models) == {("1", "full", "default"), ("new", "full", "b")}
        shadow = models.lanes.main.shadow
        assert shadow is not None
        async with asyncio.timeout(10):
            while shadow.worker.busy:  # noqa: ASYNC110 -- its thread says when
                await asyncio.sleep(0.01)
        models.report()
    rows = metrics.shadow_rows.values["compared",]
    assert 0 < rows < 64, "the main lane's, not the challenger's"
    assert metrics.shadow_flips.values[()] == 0
    assert metrics.shadow_difference.snapshot()[""][0].sum() == rows
    assert {labels[0] for labels in metrics.model.values} == {
        f"tip-intent-reference:{name}" for name in ("1", "new", "music")
    }


@pytest.mark.skipif(sys.platform != "linux", reason="shares memory as Linux does")
async def test_a_shadow_whose_process_ends_is_there_again(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    def shared(opened: Artifact | Engine) -> EngineModel:
        return feed(opened, folder=sockets) if opened.manifest.version == "watched" else load(opened)

    sockets = Path(tempfile.mkdtemp(prefix="models-", dir="/tmp"))
    monkeypatch.setattr("engines.lineup.load", shared)
    monkeypatch.setattr("engines.fed._AGAIN_S", (0.0,))
    async with started(experiment=Experiment(shadow=str(shelf.model("watched")))) as models:
        shadow = models.lanes.main.shadow
        assert shadow is not None
        assert isinstance(shadow.worker, FedWorker)
        await answers(models)
        async with asyncio.timeout(20):
            while not shadow.rows["compared"]:  # noqa: ASYNC110 -- its process says when
                await asyncio.sleep(0.01)
            shadow.worker.model.link.kill()
            shadow.rows.clear()
            while shadow.worker.busy or not shadow.rows["compared"]:
                if not shadow.worker.busy:
                    await answers(models)
                await asyncio.sleep(0.01)
    async with asyncio.timeout(20):
        while any(process.poll() is None for process in fed._started):  # noqa: ASYNC110 -- they end by themselves
            await asyncio.sleep(0.05)
    shutil.rmtree(sockets)


async def test_a_version_is_named_by_the_beginning_of_its_id(shelf: Shelf) -> None:
    shelf.promote("new")
    other = shelf.repository.add(shelf.model("other"))
    shelf.repository.sign(other, shelf.key, force="a test")
    settings = Model(**shelf.settings, backend="cpu", second=other[:6])
    async with started(model=settings, experiment=Experiment(challenger=other[:6], share=0.5)) as models:
        assert await answers(models) == {("new", "full", "default"), ("other", "full", "challenger")}
        rungs = models.lanes.main.ladder.rungs
        assert [rung.model.manifest.version for rung in rungs] == ["new", "other"]
        shelf.repository.promote(other)
        assert models.deployment is not None
        await models.deployment.refresh()
        rungs = models.lanes.main.ladder.rungs
        assert [rung.model.manifest.version for rung in rungs] == ["other"], "no version stands in for itself"


async def test_a_challenger_that_is_not_there_does_not_start() -> None:
    models = Models(
        Config(experiment=Experiment(challenger="nowhere", share=0.1)), fingerprint(), REFERENCE_MODEL, Metrics()
    )
    with pytest.raises(ModelError, match="There is no model in nowhere"):
        await models.start()
    await models.close()


def test_tensorrt_is_not_promised_where_it_cannot_run(shelf: Shelf) -> None:
    with pytest.raises(ModelError, match=r"model\.backend is tensorrt, but there is no model\.repository"):
        Models(Config(model=Model(backend="tensorrt")), fingerprint(), REFERENCE_MODEL, Metrics())
    settings = Model(**shelf.settings, backend="tensorrt", device="GPU-of-another-machine")
    with pytest.raises(ModelError, match="TensorRT cannot run here: "):
        Models(Config(model=settings), fingerprint(), REFERENCE_MODEL, Metrics())


async def test_auto_goes_without(shelf: Shelf) -> None:
    shelf.promote("new")
    settings = Model(**shelf.settings, backend="auto", device="GPU-of-another-machine")
    async with started(model=settings) as models:
        assert await answers(models) == {("new", "full", "default")}


async def test_a_version_for_smaller_batches_than_configured_is_refused(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.lineup.load", lambda opened: OnnxModel(opened, max_batch=512))
    shelf.promote("new")
    settings = Model(**shelf.settings, backend="cpu")
    async with started(model=settings, batching=Batching(max_batch=1024)) as models:
        assert models.deployment is not None
        assert "takes at most 512 rows at once, but batching.max_batch is 1024" in models.deployment.refused


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: Model(repository=Path("r")), "model.repository needs model.trusted_keys"),
        (lambda: Model(second="abc"), "do nothing without model.repository"),
        (
            lambda: Model(repository=Path("r"), trusted_keys=Path("k"), build="fp32"),
            "model.build needs model.traffic",
        ),
        (lambda: Experiment(challenger="c"), "belong together"),
        (lambda: Experiment(share=0.5), "belong together"),
        (lambda: Experiment(routes=("music",)), "write value=model"),
        (lambda: Experiment(routes=("a=b", "a=c")), "names a value twice"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(made: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        made()


def test_the_check_looks_at_the_promoted_version(shelf: Shelf) -> None:
    settings = Model(**shelf.settings)
    assert [found.level for found in check.version(settings)] == ["warning"]
    version = shelf.promote("new")
    assert [found.level for found in check.version(settings)] == ["ok"]
    (shelf.repository.folder(version) / ONNX_FILE).write_bytes(b"something else")
    (found,) = check.version(settings)
    assert found.level == "problem"
    assert "The promoted version cannot serve." in found.seen


def test_the_check_knows_that_an_engine_does_not_run_here(shelf: Shelf, tmp_path: Path) -> None:
    source = small_engines.write(tmp_path / "built")
    manifest = msgspec.structs.replace(read_manifest(source), features=fingerprint())
    (source / MANIFEST_FILE).write_bytes(msgspec.json.encode(manifest))
    shelf.repository.promote(shelf.repository.add(source), shelf.key, force="a test")
    sound, doubt = check.version(Model(**shelf.settings, backend="auto", device="GPU-of-another-machine"))
    assert (sound.level, doubt.level) == ("ok", "warning")
    assert "its model runs on the CPU" in doubt.seen
    (found,) = check.version(Model(**shelf.settings, backend="tensorrt", device="GPU-of-another-machine"))
    assert (found.level, found.seen[:50]) == ("problem", "model.backend is tensorrt, and TensorRT cannot run")


def test_the_check_does_not_take_a_folder_that_is_not_there_for_an_empty_one(tmp_path: Path) -> None:
    (found,) = check.version(Model(repository=tmp_path / "nowhere", trusted_keys=tmp_path / "trusted.pem"))
    assert (found.level, "There is no repository at" in found.seen) == ("warning", True)


@pytest.mark.gpu
@pytest.mark.parametrize("sharing", ["process", "own"])
async def test_engines_serve_are_swapped_and_roll_back_on_a_gpu(
    shelf: Shelf, sharing: Literal["process", "own"]
) -> None:
    pytest.importorskip("engines.tensorrt.runner", reason="needs an NVIDIA GPU and TensorRT")
    artifact = read(REFERENCE_MODEL, features=fingerprint())
    first, second = [
        shelf.repository.find(str(build(artifact, each, shelf.repository.root)))
        for each in (Settings(level=1), Settings(level=1, precision="fp16"))
    ]
    shelf.repository.promote(first, shelf.key, force="a test")
    shelf.repository.sign(second, shelf.key, force="a test")
    metrics = Metrics()
    settings = Model(**shelf.settings, backend="tensorrt", second=second, sharing=sharing)
    async with started(metrics, model=settings) as models:
        ladder, deployment = models.lanes.main.ladder, models.deployment
        assert deployment is not None
        assert [rung.model.engine for rung in ladder.rungs] == [
            f"trt:{first[:8]}",
            f"trt:{second[:8]}",
            f"cpu:{artifact.manifest.sha256[:8]}",
        ]
        rng = np.random.default_rng(1)
        batch = (
            rng.exponential(2.0, (300, N_FEATURES)).astype(np.float32),
            rng.exponential(2.0, (300, HISTORY_LENGTH, N_CHANNELS)).astype(np.float32),
        )
        expected = ladder.rungs[2].model.infer(*batch).p_tip
        answers = await asyncio.gather(*(ladder.infer(*batch) for _ in range(2)))
        for answer in answers:
            assert (answer.mode, answer.model.engine) == ("full", f"trt:{first[:8]}")
            np.testing.assert_allclose(answer.scores.p_tip, expected, atol=0.005)
        await asyncio.to_thread(lambda: shelf.repository.promote(second, shelf.key, force="a test"))
        refreshing = asyncio.create_task(deployment.refresh())
        while not refreshing.done():
            assert (await ladder.infer(*batch)).mode == "full"
        assert (await ladder.infer(*batch)).model.engine == f"trt:{second[:8]}"
        await asyncio.to_thread(shelf.repository.rollback)
        began = time.perf_counter()
        await deployment.refresh()
        assert (await ladder.infer(*batch)).model.engine == f"trt:{first[:8]}"
        assert time.perf_counter() - began < 1.0
        assert not ladder.failures
        watching = asyncio.create_task(models.run())
        async with asyncio.timeout(10):
            while not metrics.gpu_memory.values:  # noqa: ASYNC110 -- another thread looks
                await asyncio.sleep(0.05)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
