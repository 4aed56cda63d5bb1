"""Compiling for the hot path: no GIL, cached on disk where that is possible, never stale."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numba
import xxhash

P = ParamSpec("P")
R = TypeVar("R")


@cache
def _sources() -> str:
    """Digest this package's sources: any of them may hold a constant that ends up in compiled code."""
    digest = xxhash.xxh3_128()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def inner(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function that only compiled functions call: it becomes part of them."""
    return cast("Callable[P, R]", numba.njit(nogil=True)(function))


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function on its first call, or read it from the cache.

    Numba dates a cached function by its own file's time and size, which misses constants from neighbouring files and
    forgets everything on a reinstall; the digest of the sources replaces that stamp. Where no cache directory can be
    written (neither next to the file, nor the user's, nor NUMBA_CACHE_DIR), the function is compiled in each process.
    """
    try:
        dispatcher = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return cast("Callable[P, R]", numba.njit(nogil=True)(function))
    cast("Any", dispatcher)._cache._cache_file._source_stamp = _sources()
    return cast("Callable[P, R]", dispatcher)
