"""Compiling for the hot path: no GIL, cached on disk where that is possible, never stale."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar, cast

import numba
import xxhash

P = ParamSpec("P")
R = TypeVar("R")

_OPTIONS: Final[dict[str, Any]] = {"nogil": True, "error_model": "numpy"}  # numpy: no branch for division by zero
_INNER_OPTIONS: Final = _OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # Python never calls it
_COMPILED_FROM: Final = (
    "catalogue", "compiled", "events", "fold", "kernel", "packing", "quantities", "reading", "rows", "shares",
)  # fmt: skip


@cache
def _sources() -> str:
    """Digest the sources that compiled code is made of: each of them holds constants that end up in it."""
    digest = xxhash.xxh3_128()
    for name in _COMPILED_FROM:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return digest.hexdigest()


def inner(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function that only compiled functions call: it becomes part of them."""
    return cast("Callable[P, R]", numba.njit(**_INNER_OPTIONS)(function))


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function on its first call, or read it from the cache.

    Numba dates a cached function by its own file's time and size, which misses constants from neighbouring files and
    forgets everything on a reinstall; the digest of the sources replaces that stamp. Where no cache directory can be
    written (neither next to the file, nor the user's, nor NUMBA_CACHE_DIR), the function is compiled in each process.
    """
    try:
        dispatcher = numba.njit(**_OPTIONS, cache=True)(function)
    except RuntimeError:
        return cast("Callable[P, R]", numba.njit(**_OPTIONS)(function))
    cast("Any", dispatcher)._cache._cache_file._source_stamp = _sources()
    return cast("Callable[P, R]", dispatcher)
