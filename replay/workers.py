"""Sharing work out over processes, on this machine or many: Dask, where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from replay.dataset import Map
from replay.recording import RecordingError, said

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def shared_out(*, workers: int = 0, scheduler: str | None = None) -> Iterator[Map]:
    """Give a `map` over this many processes of this machine, or over the workers of a Dask scheduler.

    Raises RecordingError if Dask is not installed, or its scheduler does not answer.
    """
    try:
        from distributed import Client, LocalCluster
    except ModuleNotFoundError as error:
        raise RecordingError(
            f"Sharing work out needs {error.name}: pip install 'tipstream[cluster]', here and on every worker."
        ) from error
    with ExitStack() as stack:
        address: str | LocalCluster | None = scheduler
        if scheduler is None:
            # One thread each: the work is Python's as much as NumPy's. Any port for the dashboard: 8787 may be taken.
            cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0")
            address = stack.enter_context(cluster)
        try:
            client = stack.enter_context(Client(address))
        except (OSError, ValueError) as error:  # the latter for what is no address
            raise RecordingError(f"No Dask scheduler answers at {scheduler}: {said(error)}.") from error

        def map_(function: Callable[[T], R], items: Sequence[T]) -> Iterable[R]:
            futures = client.map(function, items, pure=False)  # each has a file to write: never taken from a cache
            return (future.result() for future in futures)

        yield map_
