"""Owners of a model and the workers that feed them: real processes, with ONNX Runtime in the place of a GPU."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
from numpy.typing import NDArray

from engines import fed
from engines.fed import FedModel, FedWorker
from tests.engines import small_models

ARTIFACT = small_models.artifact()
# The owner as it is, but for its patience once it is alone.
QUICK = (sys.executable, "-c", "from engines import owner; owner._LONELY_S = 0.1; raise SystemExit(owner.main())")


def rows(n: int, seed: int = 1) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    features = rng.exponential(1.0, (n, len(small_models.COLUMNS))).astype(np.float32)
    return features, rng.exponential(1.0, (n, *small_models.HISTORY)).astype(np.float32)


@asynccontextmanager
async def feeding(*models: FedModel) -> AsyncIterator[list[FedWorker]]:
    """Workers, and nothing of theirs left behind."""
    workers = [FedWorker(model) for model in models]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.close()
        await asyncio.sleep(0)
        await gone()


async def gone() -> None:
    """Wait until owners whose workers have left have ended."""
    async with asyncio.timeout(20):
        while any(process.poll() is None for process in fed._started):  # noqa: ASYNC110 -- they end by themselves
            await asyncio.sleep(0.05)


def owners() -> list[int]:
    return [process.pid for process in fed._started if process.poll() is None]
