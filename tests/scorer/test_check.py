"""The check finds what is wrong, in real services where there are any, and says how to fix it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from features.redis_admin import Deployment, Node
from scorer import check
from scorer.check import Finding, judge_commands, judge_group, judge_node, judge_topics, judge_transport
from scorer.config import Config, Kafka, Model, Redis, Secret
from scorer.kafka.admin import Cluster, Group, Topic

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Topics
    from tests.services.kafka import Broker
    from tests.services.redis import Redis as RedisServer

GOOD_TOPIC = Topic(
    partitions=8,
    leaderless=0,
    replicas=3,
    settings={
        "max.message.bytes": "1048588",
        "cleanup.policy": "delete",
        "message.timestamp.type": "LogAppendTime",
        "retention.ms": "604800000",
        "min.insync.replicas": "2",
        "unclean.leader.election.enable": "false",
    },
)
GOOD_NODE = Node(
    "Redis",
    "8.2.2",
    {
        "maxmemory": "1000000000",
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "hash-max-listpack-value": "2048",
    },
)
KAFKA = Kafka()
NAMES = (KAFKA.events_topic, KAFKA.scores_topic, KAFKA.dlq_topic)


def cluster(**topics: Topic) -> Cluster:
    named = dict(zip(("events", "scores", "dlq"), NAMES, strict=True))
    return Cluster(3, {named[name]: topic for name, topic in topics.items()}, Group("Empty", 0), "")


def changed(topic: Topic, settings: Mapping[str, str]) -> Topic:
    return topic._replace(settings={**(topic.settings or {}), **settings})


def bad(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    """Levels and words of whatever is not ok; each must come with a way to fix it."""
    faults = [finding for finding in findings if finding.level != "ok"]
    assert all(finding.fix for finding in faults)
    return [(finding.level, f"{finding.what}: {finding.seen} {finding.fix}") for finding in faults]


def test_good_topics_are_good() -> None:
    assert bad(judge_topics(KAFKA, cluster(events=GOOD_TOPIC, scores=GOOD_TOPIC, dlq=GOOD_TOPIC))) == []


@pytest.mark.parametrize(
    ("topic", "level", "words"),
    [
        (GOOD_TOPIC._replace(leaderless=2), "problem", "2 partitions have no leader"),
        (GOOD_TOPIC._replace(replicas=1), "warning", "One replica"),
        (GOOD_TOPIC._replace(settings=None), "warning", "DESCRIBE_CONFIGS"),
        (changed(GOOD_TOPIC, {"max.message.bytes": "1000"}), "problem", "max.message.bytes 1000 is too small"),
        (changed(GOOD_TOPIC, {"cleanup.policy": "compact"}), "problem", "cleanup.policy compact"),
        (changed(GOOD_TOPIC, {"message.timestamp.type": "CreateTime"}), "warning", "LogAppendTime"),
        (changed(GOOD_TOPIC, {"retention.ms": "3600000"}), "warning", "retention.ms"),
        (changed(GOOD_TOPIC, {"min.insync.replicas": "1"}), "warning", "min.insync.replicas"),
        (changed(GOOD_TOPIC, {"unclean.leader.election.enable": "true"}), "warning", "unclean"),
    ],
)
def test_each_fault_of_the_input_topic_is_found(topic: Topic, level: str, words: str) -> None:
    ((found, told),) = bad(judge_topics(KAFKA, cluster(events=topic, scores=GOOD_TOPIC, dlq=GOOD_TOPIC)))
    assert found == level
    assert words in told


def test_partition_counts_must_be_equal() -> None:
    few = GOOD_TOPIC._replace(partitions=4)
    ((level, told),) = bad(judge_topics(KAFKA, cluster(events=GOOD_TOPIC, scores=few, dlq=GOOD_TOPIC)))
    assert level == "problem"
    assert KAFKA.scores_topic in told
    assert "4 partitions" in told
    assert "8" in told


def test_a_missing_topic_comes_with_the_command_that_makes_it() -> None:
    ((level, told),) = bad(judge_topics(KAFKA, cluster(events=GOOD_TOPIC, scores=GOOD_TOPIC)))
    assert level == "problem"
    assert f"--create --topic {KAFKA.dlq_topic} --partitions 8" in told


def test_dead_letters_must_hold_what_the_input_holds() -> None:
    small = changed(GOOD_TOPIC, {"max.message.bytes": "500000"})
    ((level, told),) = bad(judge_topics(KAFKA, cluster(events=GOOD_TOPIC, scores=GOOD_TOPIC, dlq=small)))
    assert level == "problem"
    assert "1048588" in told


def test_the_group_may_be_new_in_use_or_hidden() -> None:
    assert judge_group(KAFKA, Cluster(1, {}, Group("Dead", 0), "")).level == "ok"
    assert "2 members" in judge_group(KAFKA, Cluster(1, {}, Group("Stable", 2), "")).seen
    hidden = judge_group(KAFKA, Cluster(1, {}, None, "GroupAuthorizationFailedError"))
    assert hidden.level == "problem"
    assert "READ" in hidden.fix


def test_a_good_redis_is_good() -> None:
    assert bad(judge_node(GOOD_NODE)) == []
    assert bad(judge_commands(Deployment([GOOD_NODE], ""))) == []
    assert bad(judge_transport(Redis())) == []


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({"maxmemory-policy": "allkeys-lru"}, "problem", "noeviction"),
        ({"appendonly": "no"}, "problem", "appendonly"),
        ({"appendfsync": "no"}, "problem", "everysec"),
        ({"maxmemory": "0"}, "warning", "maxmemory"),
        ({"hash-max-listpack-value": "64"}, "warning", "hash-max-listpack-value 64"),
    ],
)
def test_each_fault_of_redis_is_found(change: dict[str, str], level: str, words: str) -> None:
    node = GOOD_NODE._replace(settings={**(GOOD_NODE.settings or {}), **change})
    ((found, told),) = bad(judge_node(node))
    assert found == level
    assert words in told


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("5.0.14", "problem"),
        ("6.2.13", "warning"),
        ("6.2.20", None),
        ("7.0.15", "warning"),
        ("7.2.11", None),
        ("8.2.1", "warning"),
        ("8.4.0", None),
    ],
)
def test_versions_with_known_holes_are_named(version: str, level: str | None) -> None:
    assert [found for found, _ in bad(judge_node(GOOD_NODE._replace(version=version)))] == ([level] if level else [])


def test_redis_in_the_open_is_named() -> None:
    ((level, told),) = bad(judge_transport(Redis(url="redis://redis.example:6379/0")))
    assert level == "warning"
    assert "rediss://" in told


async def test_nothing_there_is_a_problem_each_and_exit_status_1(tmp_path: Path) -> None:
    output = io.StringIO()
    config = Config(
        kafka=Kafka(bootstrap="127.0.0.1:1"), redis=Redis(url="redis://127.0.0.1:1/0"), model=Model(path=tmp_path)
    )
    assert await check.run(config, Console(file=output)) == 1
    shown = output.getvalue()
    assert shown.count("problem") == 3
    for words in ("There is no model in", "is not listened on", "does not serve us", "redis.url"):
        assert words in shown


async def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "ca.pem"
    broken.write_text("no certificate")
    (finding,) = await check.kafka(Kafka(protocol="SSL", cafile=broken))
    assert finding.level == "problem"
    assert "certificate" in finding.seen


@pytest.mark.redis
async def test_a_real_redis_set_up_for_us(redis_url: str) -> None:
    findings = await check.redis(Redis(url=redis_url))
    assert [finding for finding in findings if finding.level == "problem"] == []
    assert any("appendonly yes" in finding.seen for finding in findings)
    assert any("may run the store's commands" in finding.seen for finding in findings)


@pytest.mark.redis
async def test_a_user_with_the_advised_rights_is_enough_and_one_with_less_is_told(
    redis_server: RedisServer, redis_url: str
) -> None:
    from redis.asyncio import Redis as Client

    client: Any = Client.from_url(redis_url)
    rights = check.ACL.split(" NAME ")[1].split()
    await client.execute_command("ACL", "SETUSER", "check-enough", "reset", "on", ">secret", *rights)
    await client.execute_command("ACL", "SETUSER", "check-less", "reset", "on", ">secret", *rights, "-expire", "-hset")
    try:
        enough = await check.redis(Redis(url=redis_url, username="check-enough", password=Secret("secret")))
        less = await check.redis(Redis(url=redis_url, username="check-less", password=Secret("secret")))
        wrong = await check.redis(Redis(url=redis_url, username="check-less", password=Secret("guess")))
    finally:
        await client.execute_command("ACL", "DELUSER", "check-enough", "check-less")
        await client.aclose()
    assert not [finding for finding in enough if finding.level == "problem"]
    assert any("may not read" in finding.seen for finding in enough), "CONFIG and INFO are not among the rights"
    (denied,) = (finding for finding in less if finding.level == "problem")
    assert denied.what == "Redis commands"
    assert "lacks +hset, +expire." in denied.seen
    assert "ACL SETUSER NAME +hset +expire;" in denied.fix
    (refused,) = wrong
    assert refused.level == "problem"
    assert "secret" not in refused.seen + refused.fix
    assert "guess" not in refused.seen + refused.fix


@pytest.mark.kafka
async def test_a_real_kafka(kafka_broker: Broker, kafka_topics: Topics) -> None:
    settings = {"message.timestamp.type": "LogAppendTime", "retention.ms": "604800000"}
    events = await kafka_topics("events", 4, settings)
    config = Kafka(
        bootstrap=kafka_broker.bootstrap,
        group="check",
        events_topic=events,
        scores_topic=await kafka_topics("scores", 4),
        dlq_topic="missing",
    )
    findings = await check.kafka(config)
    levels = {finding.what: finding.level for finding in findings if finding.level != "warning"}
    assert levels == {
        "Kafka": "ok",
        f"topic {events}": "ok",
        f"topic {config.scores_topic}": "ok",
        "topic missing": "problem",
        "group check": "ok",
    }
    warnings = {finding.seen for finding in findings if finding.level == "warning"}
    assert warnings == {"One replica: a lost disk loses its records."}
    assert [finding.what for finding in await check.kafka(config)] == [finding.what for finding in findings], (
        "looking for a topic does not make it"
    )
