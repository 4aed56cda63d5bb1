"""How long a call takes, bucket by bucket, for several models in turns, so that what disturbs one disturbs all."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engines.gate.verdict import Speed, Timing
from engines.model import Model
from engines.worker import Pipelined

_BLOCKS: Final = 5  # a figure is the median of as many blocks', so that one disturbance does not make it
_WARM_UP: Final = 20
_SETS: Final = 8

Rows = tuple[NDArray[np.float32], NDArray[np.float32]]


def measure(
    models: Sequence[tuple[str, Model]],
    features: NDArray[np.float32],
    history: NDArray[np.float32],
    *,
    runs: int,
    progress: Callable[[str], None] = lambda step: None,
) -> tuple[Speed, ...]:
    """Time each model at the sizes of the first one's buckets; `runs` calls a block. Rows are repeated to fill them."""
    timings: list[list[Timing]] = [[] for _ in models]
    for size in models[0][1].buckets:
        progress(f"timing batches of {size}")
        sets = [_rows(features, history, size, turn) for turn in range(_SETS)]
        taking = [at for at, (_, model) in enumerate(models) if size <= model.max_batch]
        spent: dict[int, list[NDArray[np.float64]]] = {at: [] for at in taking}
        rates: dict[int, list[float]] = {at: [] for at in taking}
        with _undisturbed():
            for at in taking:
                for i in range(_WARM_UP):
                    models[at][1].infer(*sets[i % _SETS])
            for block in range(_BLOCKS):
                for at in taking[block % len(taking) :] + taking[: block % len(taking)]:
                    spent[at].append(_calls(models[at][1], sets, runs))
                    rates[at].append(size * runs / _flow(models[at][1], sets, runs))
        for at in taking:
            p50, p99 = (float(np.median([np.percentile(block, q) for block in spent[at]])) * 1e6 for q in (50, 99))
            timings[at].append(
                Timing(
                    size=size,
                    p50_us=round(p50, 2),
                    p99_us=round(p99, 2),
                    per_second=round(float(np.median(rates[at]))),
                )
            )
    return tuple(Speed(name=name, timings=tuple(found)) for (name, _), found in zip(models, timings, strict=True))


def ratio(first: Speed, second: Speed, what: Callable[[Timing], float]) -> dict[int, float]:
    """Return one figure of the first over the second's, by the sizes that both have."""
    other = {timing.size: what(timing) for timing in second.timings}
    return {timing.size: what(timing) / other[timing.size] for timing in first.timings if timing.size in other}


def flow(model: Model, sets: Sequence[Rows], batches: int) -> None:
    """Score as many batches as fast as the model can, several in flight if it takes them."""
    if not isinstance(model, Pipelined):
        for i in range(batches):
            model.infer(*sets[i % len(sets)])
        return
    waiting: list[Any] = []
    for i in range(batches):
        waiting.append(model.launch(*sets[i % len(sets)]))
        if len(waiting) == model.depth:
            model.collect(waiting.pop(0))
    for ticket in waiting:
        model.collect(ticket)


def _calls(model: Model, sets: Sequence[Rows], runs: int) -> NDArray[np.float64]:
    seconds = np.empty(runs)
    for i in range(runs):
        rows = sets[i % _SETS]
        began = time.perf_counter()
        model.infer(*rows)
        seconds[i] = time.perf_counter() - began
    return seconds


def _flow(model: Model, sets: Sequence[Rows], runs: int) -> float:
    began = time.perf_counter()
    flow(model, sets, runs)
    return time.perf_counter() - began


def _rows(features: NDArray[np.float32], history: NDArray[np.float32], size: int, turn: int) -> Rows:
    at = (np.arange(size) + turn * size) % len(features)
    return features[at], history[at]


@contextmanager
def _undisturbed() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
