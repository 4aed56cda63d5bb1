"""What the repository points to, made to serve: loaded beside what serves now, then swapped in between two batches."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple, NoReturn, Protocol

from engines.background import background
from engines.ladder import Ladder, Rung
from engines.lineup import Lineup
from engines.model import Model, ModelError

log = logging.getLogger(__name__)

_AGAIN_S: Final = 60.0  # what was refused may have been for a passing reason, such as a full GPU
#: The last two are of a machine that is short of processes, threads or descriptors.
_REFUSALS: Final = (ModelError, OSError, RuntimeError)


class Points(Protocol):
    """A pointer to the version that serves, and to the one to go back to."""

    @property
    def serving(self) -> str | None: ...

    @property
    def previous(self) -> str | None: ...


class Pointing(Protocol):
    """What is asked of a repository."""

    def token(self) -> object:
        """Cheap, called on the loop; differs once the pointer may have changed. Never raises."""

    def pointer(self) -> Points:
        """Raises ModelError."""


class _Resident(NamedTuple):
    rungs: Sequence[Rung]
    last: Model


class Deployment:
    """Keeps a ladder on the serving version. All methods belong to the loop's thread.

    The serving version and the previous one stay loaded, graphs and all, so that going back is a change of pointers.
    """

    def __init__(
        self,
        ladder: Ladder,
        repository: Pointing,
        opens: Callable[[str], Lineup],
        rungs: Callable[[Lineup], Sequence[Rung]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`opens` loads a version, in a thread; raises ModelError. `rungs` makes its rungs, on the loop.

        `clock` counts seconds.
        """
        #: The version that answers; None while it is what the ladder began with.
        self.serving: str | None = None
        #: The version that the pointer named when it was looked at last.
        self.pointed: str | None = None
        #: Why the version that the pointer names does not serve; empty if it does.
        self.refused = ""
        self.swaps = 0
        self._ladder = ladder
        self._repository = repository
        self._opens = opens
        self._rungs = rungs
        self._resident: dict[str, _Resident] = {}
        self._first = _Resident(ladder.rungs, ladder.last)
        self._seen: object = None
        self._clock = clock
        self._again = 0.0  # when what is refused is tried again

    async def run(self, every_s: float) -> NoReturn:
        """Follow the pointer for ever."""
        while True:
            await asyncio.sleep(every_s)
            await self.refresh()

    async def refresh(self) -> None:
        """Look once and do what the pointer says; what cannot be loaded is refused, in words, and nothing changes.

        It is tried again after a minute, and once the pointer has changed.
        """
        token = self._repository.token()
        if token == self._seen and not (self.refused and self._clock() >= self._again):
            return
        self._seen = token
        try:
            points = await asyncio.to_thread(self._repository.pointer)
            self.pointed = points.serving
            if points.serving is not None:
                self._swap(points.serving, await self._loaded(points.serving))
            self.refused = ""
        except _REFUSALS as error:
            if str(error) != self.refused:
                log.error("%s goes on serving: %s", self._ladder.best.engine, error)  # noqa: TRY400  no traceback
            self.refused = str(error)
            self._again = self._clock() + _AGAIN_S
            return
        if points.previous is not None:
            try:
                await self._loaded(points.previous)
            except _REFUSALS as error:
                log.warning("There will be no quick way back to version %s: %s", points.previous, error)
        await self._retire(keep={self.serving, points.previous})

    async def close(self) -> None:
        """Close every resident model but those on the ladder, which closes its own."""
        await self._retire(keep={self.serving})

    async def _loaded(self, version: str) -> _Resident:
        resident = self._resident.get(version)
        if resident is None:
            lineup = await background(partial(self._opens, version))
            resident = self._resident[version] = _Resident(self._rungs(lineup), lineup.last)
        return resident

    def _swap(self, version: str, resident: _Resident) -> None:
        if version == self.serving:
            return
        before = self._ladder.best.engine
        self._ladder.install(*resident)
        self.serving = version
        self.swaps += 1
        log.info("Version %s serves: %s instead of %s.", version, self._ladder.best.engine, before)

    async def _retire(self, keep: set[str | None]) -> None:
        """Close what no pointer names; its batches under way are finished first."""
        gone = [self._resident.pop(version) for version in set(self._resident) - keep]
        if self.serving is not None and self._first.rungs:
            gone.append(self._first)
            self._first = _Resident((), self._first.last)
        for resident in gone:
            for rung in resident.rungs:
                await asyncio.to_thread(rung.worker.close)
