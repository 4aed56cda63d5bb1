"""`tipstream check`: whether everything is there, and set up so that no event is lost or counted twice.

`run` looks; the functions below it only judge what was seen, so that each finding can be tested by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table
from rich.text import Text

from engines import manifest
from engines.model import ModelError
from engines.repository.store import Repository
from engines.tensorrt.plan import Engine
from engines.tensorrt.probe import probe
from features import redis_admin
from features.catalogue import fingerprint
from features.events import MAX_EVENT_BYTES
from features.redis_admin import Deployment, Node, RedisAccessError
from scorer.config import Config, Kafka, Model, Redis
from scorer.kafka import admin
from scorer.kafka.admin import Cluster, KafkaAccessError, Topic

Level = Literal["ok", "warning", "problem"]

_STYLES: Final[dict[Level, str]] = {"ok": "green", "warning": "yellow", "problem": "bold red"}
_PIPED_WIDTH: Final = 160
_BATCH_BYTES: Final = 256 * 1024  # what the producer sends at once to one partition
_DAY_MS: Final = 86_400_000
_LISTPACK_BYTES: Final = 2048  # above the rows of a busy viewer
ACL: Final = f"ACL SETUSER NAME {' '.join(redis_admin.RIGHTS)}"
# First releases of each line without CVE-2025-49844: whoever may run a script may run code.
_PATCHED: Final = ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2))


class Finding(NamedTuple):
    """One thing that was looked at."""

    level: Level
    what: str
    seen: str
    fix: str = ""


async def run(config: Config, console: Console | None = None) -> int:
    """Look at everything, print a table, and return the exit status: 1 if there is a problem, else 0."""
    console = console or Console()
    found = [*model(config), *await kafka(config.kafka), *await redis(config.redis)]
    show(found, console if console.is_terminal else Console(file=console.file, width=_PIPED_WIDTH))
    return 1 if any(finding.level == "problem" for finding in found) else 0


def show(findings: Iterable[Finding], console: Console) -> None:
    """Print a table of the findings, each with how to fix it."""
    table = Table("", "what", "seen, and how to fix it", show_lines=False)
    for finding in findings:
        told = Text(finding.seen)
        if finding.fix:
            told.append(f"\n{finding.fix}", style="bold")
        table.add_row(Text(finding.level, style=_STYLES[finding.level]), finding.what, told)
    console.print(table)


def model(config: Config) -> Iterator[Finding]:
    """Check the model's files against its manifest, and that against the feature catalogue of this version."""
    from scorer.service import REFERENCE_MODEL  # compiles the kernel, which no other finding should wait for

    folder = config.model.path or REFERENCE_MODEL
    try:
        found = manifest.load(folder, features=fingerprint())
    except ModelError as error:
        yield Finding("problem", "model", str(error))
    else:
        seen = f"{found.name} {found.version}, SHA-256 {found.sha256[:12]}, features {found.features}."
        yield Finding("ok", "model", seen)
    yield from version(config.model)


def version(settings: Model) -> Iterator[Finding]:
    """Check what runs the model: the GPU if there must be one, and the version that the repository has promoted.

    Its signature and bytes, the features it wants and, where an engine is to run on a GPU, that it works there.
    """
    from scorer.models import lacks_gpu, takes_gpu  # see above

    try:
        gpu = takes_gpu(settings)
    except ModelError as error:
        yield Finding("problem", "model", str(error))
        return
    if settings.repository is None:
        return
    repository = Repository(settings.repository, settings.trusted_keys)
    builds = gpu and settings.build != "off"
    until = ", until the service has built an engine" if builds else ""
    try:
        serving = repository.pointer().serving
        if serving is None:
            yield Finding(
                "warning",
                "repository",
                f"{_nothing(repository.root)}; the model above scores, on the CPU{until}.",
                "Promote one with `tipstream-engine promote`, or name another model.repository.",
            )
            return
        opened = repository.open(serving, features=fingerprint())
        if gpu and isinstance(opened, Engine):
            probe(opened, device=settings.device)
    except ModelError as error:
        seen = f"The promoted version cannot serve{until}. {error}"
        yield Finding("warning" if builds else "problem", "repository", seen)
        return
    yield Finding("ok", "repository", f"Version {serving} is signed by a trusted key, and whole.")
    if isinstance(opened, Engine) and not gpu:
        why = "model.backend is cpu." if settings.backend == "cpu" else lacks_gpu(settings.device)
        seen = f"Version {serving} is an engine for {opened.facts.gpu}, but its model runs on the CPU: {why}"
        yield Finding("warning", "model", seen)


def _nothing(root: Path) -> str:
    return f"No version in {root} was promoted" if root.is_dir() else f"There is no repository at {root}"


async def kafka(config: Kafka) -> list[Finding]:
    """Look at the brokers, the topics and the group."""
    try:
        cluster = await admin.look(config)
    except KafkaAccessError as error:
        return [
            Finding(
                "problem",
                "Kafka",
                f"No broker of {config.bootstrap} serves us over {config.protocol}. {error}",
                "Check kafka.bootstrap, kafka.protocol, the user and password, the certificates, and the network.",
            )
        ]
    return [
        Finding("ok", "Kafka", f"{cluster.brokers} broker{'s' * (cluster.brokers != 1)} over {config.protocol}."),
        *judge_topics(config, cluster),
        judge_group(config, cluster),
    ]


async def redis(config: Redis) -> list[Finding]:
    """Look at Redis."""
    try:
        deployment = await redis_admin.look(
            config.url,
            username=config.username,
            password=None if config.password is None else config.password.reveal(),
            cafile=None if config.cafile is None else str(config.cafile),
            cluster=config.cluster,
            timeout_s=config.timeout_ms / 1000,
        )
    except RedisAccessError as error:
        return [
            Finding(
                "problem",
                "Redis",
                f"{config.url} does not serve us ({error}).",
                "Check redis.url, redis.username, redis.password_file, redis.cafile, redis.cluster, and the network.",
            )
        ]
    return [
        Finding("ok", "Redis", f"{config.url} answers."),
        *judge_commands(deployment),
        *(finding for node in deployment.nodes for finding in judge_node(node)),
        *judge_transport(config),
    ]


def judge_topics(config: Kafka, cluster: Cluster) -> Iterator[Finding]:
    """Judge that the three topics exist, match, and keep what is written."""
    events = cluster.topics.get(config.events_topic)
    for name in (config.events_topic, config.scores_topic, config.dlq_topic):
        topic = cluster.topics.get(name)
        what = f"topic {name}"
        if topic is None:
            count = events.partitions if events else 64
            command = f"kafka-topics.sh --create --topic {name} --partitions {count} --bootstrap-server ..."
            yield Finding("problem", what, "It does not exist, or we may not see it.", f"{command}, or allow DESCRIBE.")
            continue
        if topic.leaderless:
            fix = "Start the brokers that hold them."
            yield Finding("problem", what, f"{topic.leaderless} partitions have no leader.", fix)
        if events and topic.partitions != events.partitions:
            yield Finding(
                "problem",
                what,
                f"It has {topic.partitions} partitions, {config.events_topic} has {events.partitions}.",
                "Give it as many (kafka-topics.sh --alter --partitions): a record of partition p is answered in "
                "partition p. Never change the input's: viewers would lose their state.",
            )
        else:
            yield Finding("ok", what, f"{topic.partitions} partitions, {topic.replicas} replicas.")
        yield from _durability(what, topic)
        yield from _limits(config, name, topic, events)


def judge_group(config: Kafka, cluster: Cluster) -> Finding:
    """Judge that the consumer group can be used."""
    what = f"group {config.group}"
    if cluster.group is None:
        return Finding(
            "problem",
            what,
            f"It cannot be seen ({cluster.refused}).",
            "Allow READ on the group, and see that brokers are up.",
        )
    state, members = cluster.group
    if state == "Dead":
        return Finding("ok", what, "It does not exist yet; the first member creates it.")
    return Finding("ok", what, f"{state}, {members} member{'s' * (members != 1)}.")


def judge_commands(deployment: Deployment) -> Iterator[Finding]:
    """Judge that our user may, and Redis does, what the store asks for."""
    if deployment.missing:
        fix = f"ACL SETUSER NAME {' '.join(deployment.missing)}; all that it needs: {ACL}."
        yield Finding("problem", "Redis commands", f"Our user lacks {', '.join(deployment.missing)}.", fix)
    if deployment.denied:
        fix = "See what is wrong with that server; state cannot be written to it."
        yield Finding("problem", "Redis commands", f"Refused: {deployment.denied.rstrip('.')}.", fix)
    if not (deployment.missing or deployment.denied):
        yield Finding("ok", "Redis commands", "Our user may run the store's commands.")


def judge_node(node: Node) -> Iterator[Finding]:
    """Judge one server's version, and whether its settings keep state and keep it small."""
    yield _version(node)
    what = f"{node.name} settings"
    if node.settings is None:
        yield Finding(
            "warning",
            what,
            "Our user may not read them.",
            "Run the check as a user with +info +config|get, or see to it that maxmemory-policy is noeviction, "
            "appendonly yes and appendfsync everysec.",
        )
        return
    policy = node.settings.get("maxmemory-policy", "")
    if policy == "noeviction":
        yield Finding("ok", what, "maxmemory-policy noeviction.")
    else:
        fix = "Set it to noeviction: any other drops viewers' state, or offsets, without a word when memory is full."
        yield Finding("problem", what, f"maxmemory-policy {policy}.", fix)
    yield _append_only(what, node.settings.get("appendonly", ""), node.settings.get("appendfsync", ""))
    if node.settings.get("maxmemory") == "0":
        fix = "Set it below what the machine has: Redis then refuses writes in words before the kernel kills it."
        yield Finding("warning", what, "maxmemory has no limit.", fix)
    name = "hash-max-listpack-value"
    bytes_ = int(node.settings.get(name) or node.settings.get("hash-max-ziplist-value") or 0)
    if bytes_ < _LISTPACK_BYTES:
        fix = f"Set it to {_LISTPACK_BYTES}: a viewer's rows then take about half the memory."
        yield Finding("warning", what, f"{name} {bytes_}.", fix)


def judge_transport(config: Redis) -> Iterator[Finding]:
    """Judge whether state travels in the open."""
    parts = urlsplit(config.url)
    if parts.scheme == "redis" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        fix = "Use rediss://, unless the network between is trusted."
        yield Finding("warning", "Redis transport", f"{parts.hostname} is reached without TLS.", fix)


def _durability(what: str, topic: Topic) -> Iterator[Finding]:
    if topic.replicas == 1:
        fix = "Use 3, with min.insync.replicas=2, where records matter."
        yield Finding("warning", what, "One replica: a lost disk loses its records.", fix)
    settings = topic.settings or {}
    if topic.replicas > 1 and int(settings.get("min.insync.replicas", 2)) < 2:
        fix = "Set it to 2: an acknowledged record is then on two disks."
        yield Finding("warning", what, "min.insync.replicas is 1.", fix)
    if settings.get("unclean.leader.election.enable") == "true":
        fix = "Set it to false: a broker that fell behind could drop acknowledged records."
        yield Finding("warning", what, "unclean.leader.election.enable is true.", fix)


def _limits(config: Kafka, name: str, topic: Topic, events: Topic | None) -> Iterator[Finding]:
    what = f"topic {name}"
    settings = topic.settings
    if settings is None:
        yield Finding("warning", what, "Its settings cannot be read.", "Allow DESCRIBE_CONFIGS to have them checked.")
        return
    largest = int(settings.get("max.message.bytes", 1_048_588))
    needed = MAX_EVENT_BYTES if name == config.events_topic else _BATCH_BYTES
    if name == config.dlq_topic and events and events.settings:
        needed = max(needed, min(int(events.settings.get("max.message.bytes", 0)), 1_048_588))
    if largest < needed:
        fix = f"Raise it to {needed} or more."
        yield Finding("problem", what, f"max.message.bytes {largest} is too small.", fix)
    if name != config.events_topic:
        return
    if "compact" in settings.get("cleanup.policy", "delete"):
        fix = "Set it to delete: compaction removes events, and counts would depend on when."
        yield Finding("problem", what, f"cleanup.policy {settings['cleanup.policy']}.", fix)
    if settings.get("message.timestamp.type") == "CreateTime":
        fix = "Set it to LogAppendTime: deadlines and the guard against wrong clocks then go by the broker's clock."
        yield Finding("warning", what, "message.timestamp.type CreateTime: producers' clocks are trusted.", fix)
    retention_ms = int(settings.get("retention.ms", -1))
    if 0 <= retention_ms < 3 * _DAY_MS:
        fix = "Keep at least 3 days: whatever Redis loses is counted again from here."
        yield Finding("warning", what, f"retention.ms is {retention_ms / _DAY_MS:.1f} days.", fix)


def _version(node: Node) -> Finding:
    what = f"{node.name} version"
    if node.version is None:
        return Finding("warning", what, "Our user may not read it.", "Run the check as a user with +info.")
    version = _numbers(node.version)
    if version < (6, 2):
        return Finding("problem", what, f"{node.version} is too old.", "Upgrade to 7.2 or later.")
    patched = next((first for first in _PATCHED if first[:2] >= version[:2]), _PATCHED[-1])
    if version < patched:
        text = ".".join(map(str, patched))
        return Finding(
            "warning",
            what,
            f"{node.version} lets whoever may run a script run code (CVE-2025-49844).",
            f"Upgrade to {text} or later, unless your distribution has patched it.",
        )
    return Finding("ok", what, f"{node.version}.")


def _append_only(what: str, append: str, fsync: str) -> Finding:
    if append != "yes":
        fix = "Set appendonly yes and appendfsync everysec: a restart otherwise loses state, and all is rebuilt."
        return Finding("problem", what, f"appendonly {append}.", fix)
    if fsync not in ("everysec", "always"):
        fix = "Set it to everysec: a power loss then costs a second, which is read from Kafka again."
        return Finding("problem", what, f"appendfsync {fsync}.", fix)
    return Finding("ok", what, f"appendonly yes, appendfsync {fsync}.")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
