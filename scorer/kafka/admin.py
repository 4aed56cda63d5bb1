"""What a Kafka cluster looks like from outside: for `tipstream check`, never on the serving path."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaConnectionError, KafkaError, for_code

from scorer.config import ConfigError, Kafka
from scorer.kafka.client import options
from scorer.kafka.refusal import named, refusal

_ATTEMPTS: Final = 20  # to see the group
_PAUSE_S: Final = 0.25


class KafkaAccessError(Exception):
    """No broker answers; the message says what was tried."""


class Topic(NamedTuple):
    """One topic. `settings` is None where the cluster does not let us read them."""

    partitions: int
    leaderless: int
    replicas: int
    settings: Mapping[str, str] | None


class Group(NamedTuple):
    """The consumer group: Kafka's word for its state, and how many members it has."""

    state: str
    members: int


class Cluster(NamedTuple):
    """What was seen. `group` is None, and `refused` says why, where the cluster does not show the group."""

    brokers: int
    topics: Mapping[str, Topic]
    group: Group | None
    refused: str


async def look(config: Kafka) -> Cluster:
    """Ask the cluster about our topics and our group; changes nothing. Raises KafkaAccessError."""
    try:
        client = AIOKafkaAdminClient(**options(config))
    except ConfigError as error:
        raise KafkaAccessError(str(error)) from error
    # While it connects, the client logs each failure; the one that counts is raised.
    logger = logging.getLogger("aiokafka")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        await client.start()
        return await _look(client, config)
    except KafkaConnectionError as error:
        raise KafkaAccessError((await refusal(config)).words) from error
    except (KafkaError, OSError, TimeoutError) as error:
        raise KafkaAccessError(named(error)) from error
    finally:
        await client.close()
        logger.setLevel(level)


async def _look(client: AIOKafkaAdminClient, config: Kafka) -> Cluster:
    brokers = (await client.describe_cluster())["brokers"]
    # All topics are asked for: where topics are made by being asked for, asking for one by name would make it.
    ours = {config.events_topic, config.scores_topic, config.dlq_topic}
    described = {
        topic["topic"]: topic["partitions"] for topic in await client.describe_topics() if topic["topic"] in ours
    }
    settings = await _settings(client, sorted(described))
    topics = {
        name: Topic(
            partitions=len(partitions),
            leaderless=sum(partition["leader"] < 0 for partition in partitions),
            replicas=min((len(partition["replicas"]) for partition in partitions), default=0),
            settings=settings.get(name),
        )
        for name, partitions in described.items()
    }
    refused = ""
    for _ in range(_ATTEMPTS):
        try:
            return Cluster(len(brokers), topics, await _group(client, config.group), "")
        except KafkaError as error:
            refused = type(error).__name__
            if not error.retriable:
                break
            # A new cluster first makes the topic in which it keeps its groups.
            await asyncio.sleep(_PAUSE_S)
    return Cluster(len(brokers), topics, None, refused)


async def _settings(client: AIOKafkaAdminClient, topics: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the settings of those topics that the cluster lets us read."""
    if not topics:
        return {}
    try:
        answers = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in topics])
    except (KafkaError, OSError):  # a broker that does not know the question hangs up
        return {}
    resources: list[Any] = [resource for answer in answers for resource in answer.resources]
    return {name: {entry[0]: entry[1] for entry in entries} for code, _, _, name, entries in resources if code == 0}


async def _group(client: AIOKafkaAdminClient, group: str) -> Group:
    (answer,) = await client.describe_consumer_groups([group])
    code, _, state, _, _, members, *_ = answer.groups[0]
    if code:
        raise for_code(code)()
    return Group(state, len(members))
