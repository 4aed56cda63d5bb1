"""Whether a row's score depends on anything but the row: its slot, the rows beside it or there before it, the bucket.

TensorRT has had bugs of this kind that no error told of. A poisoned row, with NaN, infinity or the largest number, may
spoil its own score; it may not touch another's.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from engines.gate.verdict import Moves
from engines.model import BadScores, Model, ModelError

_MAX: Final = float(np.finfo(np.float32).max)
#: What the neighbours hold, by name.
POISONS: Final = {"NaN": np.nan, "infinity": np.inf, "-infinity": -np.inf, "the largest number": _MAX, "zero": 0.0}
_TURNS: Final = 2  # an engine may keep two batches' memory for a bucket: both are to be looked at

#: Channel 0 of the history is a type's code, by which a table is looked up: it stays, for NaN is no place in a table.
_FIRST_VALUE: Final = 1

Rows = tuple[NDArray[np.float32], NDArray[np.float32]]


def moves(model: Model, features: NDArray[np.float32], history: NDArray[np.float32]) -> Moves:
    """Ask the same rows, features (n, F) and history (n, L, C), in other places; n >= 1, repeated to fill a batch."""
    at = np.arange(model.max_batch) % len(features)
    rows = features[at], history[at]
    whole = {size: _answer(model, _part(rows, slice(0, size))) for size in model.buckets}
    largest = model.buckets[-1]
    return Moves(
        slot=max(_slot(model, rows, size, whole[size]) for size in model.buckets),
        neighbours={
            name: max(_beside(model, rows, size, whole[size], value) for size in model.buckets)
            for name, value in POISONS.items()
        },
        padding=max(_after(model, rows, size, whole[size]) for size in model.buckets),
        bucket=max(
            _off(
                np.concatenate(
                    [_answer(model, _part(rows, slice(low, low + size))) for low in range(0, largest, size)]
                ),
                whole[largest],
            )
            for size in model.buckets
        ),
    )


def _slot(model: Model, rows: Rows, size: int, expected: NDArray[np.float32]) -> float:
    """Turn a batch round, and shift it by one."""
    worst = 0.0
    for order in (np.arange(size)[::-1], np.roll(np.arange(size), 1)):
        worst = max(worst, _off(_answer(model, _part(rows, order)), expected[order]))
    return worst


def _beside(model: Model, rows: Rows, size: int, expected: NDArray[np.float32], value: float) -> float:
    """Poison every second row, then the others."""
    worst = 0.0
    for first in range(min(2, size - 1) if size > 1 else 0):
        clean = np.arange(first, size, 2)
        features, history = (array[:size].copy() for array in rows)
        features[1 - first :: 2] = value
        history[1 - first :: 2, :, _FIRST_VALUE:] = value
        worst = max(worst, _off(_answer(model, (features, history))[clean], expected[clean]))
    return worst


def _after(model: Model, rows: Rows, size: int, expected: NDArray[np.float32]) -> float:
    """Leave poison in every slot, then ask a batch that does not fill the bucket."""
    n = size - 1 or 1
    worst = 0.0
    for value in (np.nan, np.inf):
        features, history = (array[:size].copy() for array in rows)
        features[:] = value
        history[:, :, _FIRST_VALUE:] = value
        for _ in range(_TURNS):
            _answer(model, (features, history))
        for _ in range(_TURNS):
            worst = max(worst, _off(_answer(model, _part(rows, slice(0, n))), expected[:n]))
    return worst


def _part(rows: Rows, which: slice | NDArray[np.intp]) -> Rows:
    return np.ascontiguousarray(rows[0][which]), np.ascontiguousarray(rows[1][which])


def _answer(model: Model, rows: Rows) -> NDArray[np.float32]:
    """Return p_tip (n, H), poisoned rows' included; NaN where the model gave up on the whole batch."""
    try:
        return model.infer(*rows).p_tip
    except BadScores as bad:
        return bad.scores.p_tip
    except ModelError:
        return np.full((len(rows[0]), len(model.manifest.horizons_s)), np.nan, np.float32)


def _off(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    off = np.abs(found.astype(np.float64) - expected).max(initial=0.0)
    return float(np.nan_to_num(off, nan=1.0).clip(max=1.0))  # no answer is as far off as can be
