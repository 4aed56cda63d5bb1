"""Scores and dead letters to Kafka: in order for each partition, acknowledged by all replicas, nothing given up.

Facts about aiokafka 0.14 that shape this file:

* Batches built per partition cost a fifth of `send()` a record.
* A batch that the broker refuses has used up its sequence numbers all the same, so that every later batch of that
  partition is out of sequence, for ever. The cure is a new producer, and to send again all that is not acknowledged, in
  its order; readers drop what they have seen by the `src-off` header.
* That holds for a broker that knows the producer. Of one that it has not seen it takes any sequence number, so that a
  second batch would get ahead of a refused first one: it waits for the first one's acknowledgement.
* Sequence numbers run into the negative after 2**31 records of one partition, which brokers refuse: a producer is
  replaced before that.
* An idempotent producer retries for ever, and its `stop` waits for ever, while Kafka is away.
"""

import asyncio
import logging
from asyncio import FIRST_COMPLETED
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError, ProducerClosed, UnknownTopicOrPartitionError
from aiokafka.producer.message_accumulator import BatchBuilder

from scorer.config import Kafka
from scorer.kafka.client import REQUEST_TIMEOUT_MS, options
from scorer.kafka.refusal import named, refusal, unreachable
from scorer.tasks import end, within

log = logging.getLogger(__name__)

_RETRY_S = (0.1, 0.2, 0.5, 1.0, 2.0)  # waits between attempts to connect; the last one repeats
_TOLD_EACH = 10  # attempts to connect between two words about why they fail
_SILENCE_S = 2 * REQUEST_TIMEOUT_MS / 1000  # without an acknowledgement, after which a producer is taken for stuck


class Message(NamedTuple):
    """One record to publish."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    """A list: aiokafka's encoder takes nothing else."""


class Outgoing(NamedTuple):
    """Messages of one partition of one topic, in order."""

    topic: str
    partition: int
    messages: Sequence[Message]


class Sink:
    """Publishes, and returns when Kafka has it.

    `recycle_after` is how many records of one partition a producer may write before it is replaced.
    `recreated` is called each time that a producer is given up.
    """

    def __init__(
        self, config: Kafka, *, recycle_after: int = 2_000_000_000, recreated: Callable[[], None] = lambda: None
    ) -> None:
        self._config = config
        self._options = options(config)  # once: files that cannot be used at the moment do no harm later
        self._recycle_after = recycle_after
        self._recreated = recreated
        self._producer: AIOKafkaProducer | None = None
        self._written: Counter[tuple[str, int]] = Counter()
        self._first: dict[tuple[str, int], asyncio.Future[object]] = {}  # acknowledgement of a partition's first batch
        self._waiting: dict[_Publication, None] = {}  # not acknowledged, oldest first
        self._order = asyncio.Lock()  # held while a publication is handed over, so that they keep their order
        self._broken = asyncio.Event()
        self._repair: asyncio.Task[None] | None = None
        self._failures = 0  # producers in a row that failed before anything was acknowledged

    async def start(self) -> None:
        """Connect. Raises Unreachable when no broker answers."""
        try:
            self._producer = await self._new_producer()
        except KafkaError as error:
            raise await unreachable(self._config, error) from error
        self._repair = asyncio.create_task(self._keep_working(), name="sink-repair")

    async def stop(self, timeout_s: float) -> None:
        """Close; what is not acknowledged by then stays so (and will be published again after a restart)."""
        if self._repair is not None:
            await end([self._repair])
        if self._producer is not None:
            await self._retire(self._producer, timeout_s)

    @property
    def broken(self) -> bool:
        """Whether there is no producer that works: none until a broker answers, or one after the other is refused."""
        return self._broken.is_set() or (self._failures > 0 and bool(self._waiting))

    async def publish(self, outgoing: Sequence[Outgoing]) -> None:
        """Returns once everything is acknowledged; while Kafka is away, that is when it is back."""
        if not outgoing:
            return
        repair = self._repair
        assert repair is not None, "start it first"
        publication = _Publication(outgoing)
        self._waiting[publication] = None
        try:
            async with self._order:
                await self._hand_over(publication)
            while not publication.acknowledged.done():
                await asyncio.wait([publication.acknowledged, repair], timeout=_SILENCE_S, return_when=FIRST_COMPLETED)
                if repair.done():
                    repair.result()  # raises what it failed with: nothing would ever be acknowledged
                if not publication.acknowledged.done():
                    self._fail(self._producer, TimeoutError(f"no acknowledgement for {_SILENCE_S:.0f} s"))
        finally:
            del self._waiting[publication]
        self._failures = 0
        if max(self._written.values(), default=0) >= self._recycle_after and not self._broken.is_set():
            self._replace()

    async def _hand_over(self, publication: "_Publication") -> None:
        """Give it to the current producer, once. Only while `_order` is held.

        Not to one that has failed: it might deliver this one after having given up an earlier one.
        """
        producer = self._producer
        if producer is None or publication.sent_by is producer or self._broken.is_set():
            return
        publication.sent_by = producer
        try:
            pending = [ack for outgoing in publication.outgoing for ack in await self._send(producer, outgoing)]
        except KafkaError as error:
            self._fail(producer, error)
        else:
            publication.watch(pending, lambda error: self._fail(producer, error))

    async def _send(self, producer: AIOKafkaProducer, outgoing: Outgoing) -> list["asyncio.Future[object]"]:
        topic, partition, messages = outgoing
        pending = []
        batch = producer.create_batch()
        for key, value, headers in messages:
            if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:  # full
                pending.append(await self._send_batch(producer, batch, topic, partition))
                batch = producer.create_batch()
                batch.append(key=key, value=value, timestamp=None, headers=headers)
        pending.append(await self._send_batch(producer, batch, topic, partition))
        self._written[topic, partition] += len(messages)
        return pending

    async def _send_batch(
        self, producer: AIOKafkaProducer, batch: BatchBuilder, topic: str, partition: int
    ) -> "asyncio.Future[object]":
        """Hand over one batch; a partition's second one only when the first is acknowledged. Raises KafkaError."""
        first = self._first.get((topic, partition))
        if first is not None and not first.done():
            broken = asyncio.ensure_future(self._broken.wait())
            either: list[asyncio.Future[Any]] = [first, broken]
            await asyncio.wait(either, timeout=_SILENCE_S, return_when=FIRST_COMPLETED)
            broken.cancel()
            if not first.done():
                raise KafkaTimeoutError(f"no acknowledgement of the first batch of {topic}-{partition}")
            first.result()  # raises what the broker had against it
        try:
            acknowledgement: asyncio.Future[object] = await producer.send_batch(batch, topic, partition=partition)
        except AssertionError as error:  # aiokafka's way to say it; a new producer asks what there is now
            raise UnknownTopicOrPartitionError(
                f"topic {topic} has no partition {partition}: give it as many as the events have"
            ) from error
        self._first.setdefault((topic, partition), acknowledgement)
        return acknowledgement

    def _fail(self, producer: AIOKafkaProducer | None, error: BaseException) -> None:
        """Have the producer replaced; once, however many batches fail with it."""
        if producer is self._producer and not self._broken.is_set():
            log.warning("Replacing the Kafka producer after %s", named(error))
            self._failures += 1
            self._replace()

    def _replace(self) -> None:
        self._recreated()
        self._broken.set()

    async def _keep_working(self) -> None:
        """Replace a broken producer and send again, in order, all that is not acknowledged."""
        while True:
            await self._broken.wait()
            if self._failures > 1:  # what a new producer did not mend, the next one may not either
                await asyncio.sleep(_RETRY_S[min(self._failures, len(_RETRY_S)) - 1])
            async with self._order:
                if self._producer is not None:
                    await self._retire(self._producer, timeout_s=1.0)
                self._producer = await self._reconnect()
                self._written.clear()
                self._first.clear()
                self._broken.clear()
                for publication in list(self._waiting):
                    if not publication.acknowledged.done():
                        await self._hand_over(publication)

    async def _reconnect(self) -> AIOKafkaProducer:
        attempt = 0
        while True:
            try:
                return await self._new_producer()
            except KafkaError:
                if attempt % _TOLD_EACH == 0:
                    log.warning("No broker takes scores; trying again. %s", (await refusal(self._config)).words)
            await asyncio.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
            attempt += 1

    async def _new_producer(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **self._options,
            enable_idempotence=True,  # acks=all with it
            linger_ms=0,
            max_batch_size=256 * 1024,
            retry_backoff_ms=20,
        )
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        return producer

    async def _retire(self, producer: AIOKafkaProducer, timeout_s: float) -> None:
        await within(timeout_s, producer.stop())  # does nothing the second time, however far the first one came
        # What it has not delivered by now it would go on trying to for ever, and its own means of ending wait for that.
        await within(timeout_s, producer.client.close())  # TLS would wait for the other side's farewell
        if (sender := producer._sender.sender_task) is not None:
            await end([sender])  # it waits for its requests when it is cancelled; the next time it cancels them
        producer._message_accumulator.fail_all(ProducerClosed())


class _Publication:
    """What one `publish` sends, until all of it is acknowledged to one and the same producer."""

    def __init__(self, outgoing: Sequence[Outgoing]) -> None:
        self.outgoing = outgoing
        self.acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent_by: AIOKafkaProducer | None = None
        self._missing = 0

    def watch(self, pending: Sequence["asyncio.Future[object]"], failed: Callable[[BaseException], None]) -> None:
        """Finish when all have arrived; call `failed` with the error of one that did not."""
        producer = self.sent_by
        self._missing = len(pending)

        def arrived(acknowledgement: "asyncio.Future[object]") -> None:
            error = asyncio.CancelledError() if acknowledgement.cancelled() else acknowledgement.exception()
            if self.sent_by is not producer or self.acknowledged.done():
                return  # sent again since
            if error is not None:
                failed(error)
                return
            self._missing -= 1
            if self._missing == 0:
                self.acknowledged.set_result(None)

        for acknowledgement in pending:
            acknowledgement.add_done_callback(arrived)
