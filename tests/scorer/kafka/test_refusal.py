"""What can be told about a broker without one: nothing there, something else there, silence."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiokafka.errors import KafkaConnectionError, RequestTimedOutError

from scorer.config import Kafka
from scorer.kafka import refusal as module
from scorer.kafka.refusal import Unreachable, named, refusal
from scorer.kafka.sink import Sink


@asynccontextmanager
async def listener(
    treat: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """Something that is no broker; its address. Every connection is closed when the block ends."""
    serving: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        await treat(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*filter(None, serving))


async def test_a_broker_that_is_not_there_is_told_in_words() -> None:
    with pytest.raises(Unreachable, match=r"^Kafka does not serve us\. 127\.0\.0\.1:1 is not listened on") as told:
        await Sink(Kafka(bootstrap="127.0.0.1:1")).start()
    assert not told.value.final, "it may be started any time"
    assert str(told.value).count("KafkaConnectionError") == 1


def test_an_error_is_named_once() -> None:
    assert named(KafkaConnectionError("gone")) == "KafkaConnectionError: gone"
    assert named(RequestTimedOutError()) == "[Error 7] RequestTimedOutError"
    assert named(OSError("gone")) == "OSError: gone"


async def test_each_broker_is_told_apart() -> None:
    found = await refusal(Kafka(bootstrap="127.0.0.1:1,no-such-host.invalid:9092"))
    assert "127.0.0.1:1 is not listened on" in found.words
    assert "no-such-host.invalid:9092 is a name that cannot be resolved" in found.words


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
async def test_one_that_hangs_up_may_speak_something_else(protocol: str) -> None:
    async def hang_up(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        pass

    async with listener(hang_up) as address:
        found = await refusal(Kafka(bootstrap=address, protocol=protocol))  # type: ignore[arg-type]
    assert f"{address} closes the connection at our first words" in found.words
    assert not found.final


async def test_silence_is_waited_for_no_longer_than_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.1)

    async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listener(say_nothing) as address:
        found = await refusal(Kafka(bootstrap=address))
    assert f"{address} says nothing" in found.words


async def test_what_does_not_speak_tls_is_told() -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with listener(talk) as address:
        found = await refusal(Kafka(bootstrap=address, protocol="SSL"))
    assert f"{address} does not speak TLS there" in found.words
    assert found.final
