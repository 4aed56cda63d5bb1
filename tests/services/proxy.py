"""A TCP proxy between a client and a service that tests may make slow, silent or cut at the worst moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Final, Self

_CHUNK: Final = 65_536


class Proxy:
    """Forwards connections to a port of 127.0.0.1, and does to them what a network may.

    `delay_s` holds back each chunk of an answer. `cut_requests` is how many of the next requests are not forwarded but
    close their connection; `cut_answers` how many of the next answers: the work was done, and nobody hears of it.
    """

    def __init__(self, target: int) -> None:
        """Nothing listens yet: use it as a context."""
        self.port = 0
        self.connections = 0
        self._target = target
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._talks = asyncio.Event()
        self._talks.set()
        self.delay_s = 0.0
        self.cut_requests = self.cut_answers = 0

    def silence(self) -> None:
        """Forward nothing: connections stay open, nobody answers."""
        self._talks.clear()

    def talk(self) -> None:
        """Forward again, what was held back first."""
        self._talks.set()

    def cut(self) -> None:
        """Close every open connection."""
        for task in self._running:
            task.cancel()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            async with _closing(writer), _connected(self._target) as (answers, requests):
                pumps = [
                    asyncio.create_task(self._pump(reader, requests, request=True)),
                    asyncio.create_task(self._pump(answers, writer, request=False)),
                ]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the service is away, or the connection was cut: either way it ends here
        finally:
            self._running.discard(task)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, request: bool) -> None:
        while chunk := await source.read(_CHUNK):
            await self._talks.wait()
            if request and self.cut_requests:
                self.cut_requests -= 1
                return
            if not request and self.cut_answers:
                self.cut_answers -= 1
                return
            if not request and self.delay_s:
                await asyncio.sleep(self.delay_s)
            sink.write(chunk)
            await sink.drain()


@contextlib.asynccontextmanager
async def _connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with _closing(writer):
        yield reader, writer


@contextlib.asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    try:
        yield
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
