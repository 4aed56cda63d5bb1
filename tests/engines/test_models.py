"""What every model must do, asked of each of them."""

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.cpu import OnnxModel
from engines.fed import feed
from engines.model import Model, ModelError
from engines.prior import PriorModel
from engines.tensorrt.build import build
from engines.tensorrt.plan import Settings, read_engine
from tests.engines import small_models

Batch = tuple[NDArray[np.float32], NDArray[np.float32]]


def tensorrt(cache: Path) -> Model:
    """Build the small model's engine on the machine's GPU and load it."""
    runner = pytest.importorskip("engines.tensorrt.runner", reason="needs an NVIDIA GPU and TensorRT")
    made: Model = runner.TensorRTRunner.load(small_engine(cache), features=small_models.FINGERPRINT)
    return made


@functools.cache
def small_engine(cache: Path) -> Path:
    """Build it exact enough for the tests to compare buckets."""
    return build(small_models.artifact(), Settings(level=0, tf32=False), cache)


def fed_tensorrt(cache: Path) -> Model:
    """The same in a process of its own, where the GPU reads rows in the memory that they are sent in."""
    pytest.importorskip("tensorrt", reason="needs an NVIDIA GPU and TensorRT")
    return feed(read_engine(small_engine(cache), features=small_models.FINGERPRINT))


MAKERS: dict[str, Callable[[Path], Model]] = {
    "cpu": lambda _: OnnxModel(small_models.artifact()),
    "prior": lambda _: PriorModel(small_models.artifact().manifest),
    "tensorrt": tensorrt,
    "fed tensorrt": fed_tensorrt,
}
GPU = {"tensorrt", "fed tensorrt"}


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.gpu if name in GPU else ()) for name in MAKERS])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    made = MAKERS[request.param](tmp_path_factory.getbasetemp() / "engines")
    yield made
    made.close()


def rows(model: Model, n: int, seed: int = 1) -> Batch:
    rng = np.random.default_rng(seed)
    features = rng.exponential(2.0, (n, model.manifest.n_features)).astype(np.float32)
    return features, rng.random((n, *model.manifest.history), np.float32)


def test_shapes_and_dtypes_at_every_size(model: Model) -> None:
    for n in {*range(1, 66), *model.buckets, model.max_batch - 1, model.max_batch}:
        p_tip, value = model.infer(*rows(model, n))
        assert p_tip.shape == (n, len(model.manifest.horizons_s))
        assert value.shape == (n,)
        assert p_tip.dtype == value.dtype == np.float32


def test_probabilities_rise_with_the_horizon(model: Model) -> None:
    p_tip, value = model.infer(*rows(model, model.max_batch))
    assert p_tip.min() >= 0
    assert p_tip.max() <= 1
    assert (np.diff(p_tip, axis=1) >= 0).all()
    assert (value >= 0).all()


def test_a_row_scores_the_same_in_every_slot_and_split(model: Model) -> None:
    features, history = rows(model, 96)
    whole = model.infer(features, history)
    order = np.random.default_rng(2).permutation(96)
    moved = model.infer(features[order], history[order])
    np.testing.assert_allclose(moved.p_tip, whole.p_tip[order], atol=1e-6)
    np.testing.assert_allclose(moved.value, whole.value[order], rtol=1e-5, atol=1e-6)
    for size in (1, 7, 32):
        parts = [model.infer(features[i : i + size], history[i : i + size]) for i in range(0, 96, size)]
        np.testing.assert_allclose(np.concatenate([part.p_tip for part in parts]), whole.p_tip, atol=1e-6)


def test_scores_of_one_batch_outlive_the_next(model: Model) -> None:
    first = model.infer(*rows(model, 8, seed=3))
    kept = first.p_tip.copy()
    model.infer(*rows(model, 8, seed=4))
    np.testing.assert_array_equal(first.p_tip, kept)


def test_inputs_are_left_alone(model: Model) -> None:
    features, history = rows(model, 8)
    before = features.copy(), history.copy()
    model.infer(features, history)
    np.testing.assert_array_equal(features, before[0])
    np.testing.assert_array_equal(history, before[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f, h: (f[:0], h[:0]), "A batch of 0 rows was given"),
        (lambda f, h: (np.repeat(f, 2048, 0), np.repeat(h, 2048, 0)), "Split the batch"),
        (lambda f, h: (f[:, 1:], h), "`features` is float32 (2, 4), but the model takes float32 (2, 5)"),
        (lambda f, h: (f.astype(np.float64), h), "`features` is float64"),
        (lambda f, h: (f, h[:1]), "`history` is float32 (1, 4, 3)"),
        (lambda f, h: (f, h[:, :, 1:]), "`history` is float32 (2, 4, 2)"),
        (lambda f, h: (f[0], h), "`features` is float32 (5,)"),
    ],
)
def test_wrong_inputs_are_refused_in_words(model: Model, change: Callable[..., Batch], words: str) -> None:
    with pytest.raises(ModelError, match=re.escape(words)):
        model.infer(*change(*rows(model, 2)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_score_is_ever_without_a_number(model: Model, bad: float) -> None:
    features, history = rows(model, 4)
    features[2] = bad
    try:
        p_tip, value = model.infer(features, history)
    except ModelError as error:
        assert "Row 2 of a batch of 4" in str(error)  # noqa: PT017  a model may refuse or answer
        assert "look for the feature that produced it" in str(error)  # noqa: PT017
    else:
        assert np.isfinite(p_tip).all()
        assert np.isfinite(value).all()


def test_the_engine_names_itself_and_closes_twice(model: Model) -> None:
    assert re.fullmatch(r"[a-z]+:[0-9a-f]{8}", model.engine)
    assert model.buckets == tuple(sorted(model.buckets))
    assert model.buckets[-1] <= model.max_batch
    model.close()
    model.close()
