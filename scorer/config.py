"""What an operator may set: one frozen, typed value, read once and passed down.

A TOML file gives sections and keys; variables named `TIPSTREAM_SECTION__KEY` (top level: `TIPSTREAM_KEY`) override it.
`docs/configuration.md` is written from the declarations below by `python -m scorer.reference`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Meta

from features.events import VIEWER_TYPES
from scorer.layers import ConfigError, Secret, layered

__all__ = [
    "Batching",
    "Config",
    "ConfigError",
    "Experiment",
    "Features",
    "Kafka",
    "Model",
    "Redis",
    "Secret",
    "Server",
    "State",
    "load",
]

ENV_PREFIX: Final = "TIPSTREAM_"
ENV_FILE: Final = "TIPSTREAM_CONFIG"  # where the file is, when no --config is given

Port = Annotated[int, Meta(ge=0, le=65535)]
Text = Annotated[str, Meta(min_length=1)]
_ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/,\[\]]+):[0-9]{1,5}", re.ASCII)
Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9._-]{1,249}\Z")]  # what Kafka allows in a topic's or group's name


def _has_port(address: str) -> bool:
    return 0 < int(address.rpartition(":")[2]) <= 65_535


def _split(url: str) -> SplitResult | None:
    """The parts of an address, None if it is none: no such port, half an IPv6 address."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    return None if port == 0 else parts


class Kafka(msgspec.Struct, frozen=True):
    """Where events come from and scores go to."""

    bootstrap: Annotated[Text, Meta(description="Brokers to start from: `host:port`, comma-separated.")] = (
        "localhost:9092"
    )
    group: Annotated[Name, Meta(description="Consumer group; members share the partitions.")] = "tipstream"
    events_topic: Annotated[Name, Meta(description="Input: viewer-behaviour events.")] = "live.events.v1"
    scores_topic: Annotated[Name, Meta(description="Output: scores. As many partitions as the input.")] = (
        "live.tip-intent.scores.v1"
    )
    dlq_topic: Annotated[
        Name, Meta(description="Dead letters: undecodable records. As many partitions as the input.")
    ] = "live.events.dlq.v1"
    protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], Meta(description="How to talk to the brokers.")
    ] = "PLAINTEXT"
    mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"], Meta(description="SASL mechanism, for the SASL protocols.")
    ] = "SCRAM-SHA-512"
    username: Annotated[Text | None, Meta(description="SASL user.")] = None
    password: Annotated[Secret | None, Meta(description="SASL password; variable only, never in the file.")] = None
    password_file: Annotated[Path | None, Meta(description="File that holds the SASL password.")] = None
    cafile: Annotated[
        Path | None, Meta(description="Certificate authorities (PEM) that sign the brokers; default: the system's.")
    ] = None
    certfile: Annotated[Path | None, Meta(description="Client certificate (PEM) for mutual TLS.")] = None
    keyfile: Annotated[Path | None, Meta(description="Private key (PEM) of `certfile`.")] = None
    session_timeout_ms: Annotated[
        int, Meta(ge=6_000, le=300_000, description="Silence after which the group gives a member's partitions away.")
    ] = 10_000
    fetch_min_bytes: Annotated[
        int, Meta(ge=1, le=1_048_576, description="Bytes that a broker gathers before it answers: 1 costs most CPU.")
    ] = 16_384
    fetch_max_wait_ms: Annotated[
        int, Meta(ge=1, le=500, description="Longest that a broker gathers; also how late a seek is.")
    ] = 8
    start_from: Annotated[
        Literal["earliest", "latest"],
        Meta(description="Where a group without any position begins. Never used once Redis holds an offset."),
    ] = "earliest"
    on_offset_out_of_range: Annotated[
        Literal["stop", "earliest"],
        Meta(
            description="When retention has passed the stored offset: `stop` the partition and say so, or go on from "
            "the `earliest` record that is left and count the gap."
        ),
    ] = "stop"

    def __post_init__(self) -> None:
        sasl = self.protocol.startswith("SASL")
        if sasl and (self.username is None or self.password is None):
            raise ConfigError(
                f"kafka.protocol {self.protocol} needs kafka.username and a password: set kafka.password_file or "
                "TIPSTREAM_KAFKA__PASSWORD."
            )
        for address in self.bootstrap.split(","):
            if not _ADDRESS.fullmatch(address.strip()) or not _has_port(address.strip()) or ".." in address:
                raise ConfigError(
                    f"kafka.bootstrap must read host:port, with commas between several, and {address!r} does not."
                )
        if not sasl and (self.username is not None or self.password is not None):
            raise ConfigError(
                f"kafka.username and kafka.password_file do nothing with kafka.protocol {self.protocol}: set it to "
                "SASL_SSL, or remove them."
            )
        if not self.protocol.endswith("SSL") and (self.cafile or self.certfile):
            raise ConfigError(
                f"kafka.cafile and kafka.certfile do nothing with kafka.protocol {self.protocol}: set it to SSL or "
                "SASL_SSL, or remove them."
            )
        if (self.certfile is None) != (self.keyfile is None):
            raise ConfigError("kafka.certfile and kafka.keyfile belong together: set both, or neither.")
        if len({self.events_topic, self.scores_topic, self.dlq_topic}) < 3:
            raise ConfigError("kafka.events_topic, kafka.scores_topic and kafka.dlq_topic must all differ.")


class Redis(msgspec.Struct, frozen=True):
    """Where feature state and offsets are kept."""

    url: Annotated[
        Text, Meta(description="`redis://host:port/db`, or `rediss://` for TLS. No user or password in it.")
    ] = "redis://localhost:6379/0"
    username: Annotated[Text | None, Meta(description="ACL user; default: Redis's `default` user.")] = None
    password: Annotated[Secret | None, Meta(description="Password; variable only, never in the file.")] = None
    password_file: Annotated[Path | None, Meta(description="File that holds the password.")] = None
    cafile: Annotated[
        Path | None, Meta(description="Certificate authorities (PEM) that sign Redis; default: the system's.")
    ] = None
    cluster: Annotated[bool, Meta(description="The address is a node of a Redis Cluster.")] = False
    ttl_days: Annotated[
        int,
        Meta(
            ge=120,
            le=3650,
            description="Days that a viewer's state outlives its last event; the longest window is 60.",
        ),
    ] = 180
    timeout_ms: Annotated[
        int,
        Meta(ge=10, le=60_000, description="Longest wait for one command; then the outcome is read back."),
    ] = 500

    def __post_init__(self) -> None:
        parts = _split(self.url)
        if parts is None or parts.scheme not in ("redis", "rediss") or not parts.hostname:
            raise ConfigError(
                "redis.url must read redis://host:port/db or rediss://host:port/db"
                + ("." if parts is None else f", not {parts.scheme}://...")
            )
        if parts.query or parts.fragment:
            raise ConfigError(
                "redis.url must end with the database's number: what follows a ? would set aside how the connection "
                "is checked. All settings there are have names of their own."
            )
        if not re.fullmatch(r"/?[0-9]{0,6}", parts.path, re.ASCII):
            raise ConfigError("redis.url must end with the number of a database, as in redis://host:port/0.")
        if parts.username is not None or parts.password is not None:
            raise ConfigError(
                "redis.url must not hold a user or a password: set redis.username and redis.password_file "
                "(or TIPSTREAM_REDIS__PASSWORD)."
            )
        if self.cafile and parts.scheme != "rediss":
            raise ConfigError("redis.cafile does nothing with redis://: write rediss:// in redis.url, or remove it.")
        if self.cluster and parts.path not in ("", "/", "/0"):
            raise ConfigError("redis.url must name database 0 with redis.cluster: a Redis Cluster has no other.")


class Model(msgspec.Struct, frozen=True):
    """What scores."""

    path: Annotated[
        Path | None,
        Meta(
            description="Folder of the model that serves on the CPU while no version of the repository does; default: "
            "the one that ships."
        ),
    ] = None
    repository: Annotated[
        Path | None,
        Meta(description="Folder that `tipstream-engine` keeps versions in; the one promoted there is followed."),
    ] = None
    trusted_keys: Annotated[
        Path | None, Meta(description="File of public keys (PEM); a version must be signed by one of them to serve.")
    ] = None
    backend: Annotated[
        Literal["auto", "cpu", "tensorrt"],
        Meta(
            description="What runs an engine: TensorRT, or ONNX Runtime on the `cpu`; `auto`: TensorRT where there is "
            "a GPU, `tensorrt`: do not start without one."
        ),
    ] = "auto"
    device: Annotated[
        str, Meta(description="The GPU by number or UUID, or a MIG instance by UUID; default: the first.")
    ] = ""
    sharing: Annotated[
        Literal["process", "own"],
        Meta(
            description="`process`: one process of the machine has an engine, and all workers feed it; `own`: each "
            "worker loads it for itself, and they take turns on the GPU."
        ),
    ] = "process"
    second: Annotated[
        str,
        Meta(
            description="Version that answers when the serving one cannot: a lighter engine, or the FP16 one beside "
            "INT8."
        ),
    ] = ""
    agreement: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Least share of rows on which an INT8 engine must name the same tier as `second`, or that one "
            "answers.",
        ),
    ] = 0.99
    quota: Annotated[
        int, Meta(ge=1, le=64, description="Batches of one model on the GPU, or waiting for it, at once.")
    ] = 2
    follow_ms: Annotated[
        int, Meta(ge=10, le=60_000, description="How often the repository is asked which version is to serve.")
    ] = 250
    build: Annotated[
        Literal["off", "fp32", "fp16"],
        Meta(
            description="When no version can serve on this GPU: build the model in `path` in this precision, judge it "
            "on `traffic`, sign it with `signing_key` and promote it if it passes."
        ),
    ] = "off"
    traffic: Annotated[Path | None, Meta(description="Recorded traffic that a build is judged on.")] = None
    signing_key: Annotated[Path | None, Meta(description="Private key (PEM) that signs a build that passed.")] = None

    def __post_init__(self) -> None:
        if self.repository is not None and self.trusted_keys is None:
            raise ConfigError(
                "model.repository needs model.trusted_keys: a plan is executable code, so only signed versions serve. "
                "`tipstream-engine keygen` makes a pair of keys."
            )
        if self.repository is None and (self.second or self.build != "off"):
            raise ConfigError("model.second and model.build do nothing without model.repository: set it.")
        if self.build != "off" and (self.traffic is None or self.signing_key is None):
            raise ConfigError(
                "model.build needs model.traffic, to judge what it built, and model.signing_key, to sign it. Set both, "
                "or build and promote by hand with `tipstream-engine`."
            )


class Experiment(msgspec.Struct, frozen=True):
    """Other models beside the one that serves. A model is a version of the repository, or a folder of an ONNX model."""

    challenger: Annotated[str, Meta(description="Model whose scores a share of the viewers gets.")] = ""
    arm: Annotated[Text, Meta(description="What those scores say as `arm`; the others say `default`.")] = "challenger"
    share: Annotated[float, Meta(ge=0, le=1, description="Share of the viewers that the challenger gets.")] = 0.0
    salt: Annotated[
        str, Meta(description="Changes which viewers they are; the same for as long as an experiment runs.")
    ] = ""
    shadow: Annotated[
        str, Meta(description="Model that scores as well and is only compared: nothing of it is published.")
    ] = ""
    route_by: Annotated[
        Literal["category", "platform", "region", "type"],
        Meta(description="Field of the event that chooses among `routes`."),
    ] = "category"
    routes: Annotated[
        tuple[str, ...],
        Meta(
            description="Models of their own: `value=model` for each value of the field; the rest takes the main one."
        ),
    ] = ()

    def __post_init__(self) -> None:
        if bool(self.challenger) != (self.share > 0):
            raise ConfigError("experiment.challenger and experiment.share belong together: set both, or neither.")
        for route in self.routes:
            value, equals, model = route.partition("=")
            if not (value and equals and model):
                raise ConfigError(
                    f"experiment.routes has {route!r}: write value=model, such as music=var/models/music."
                )
        if len({route.partition("=")[0] for route in self.routes}) < len(self.routes):
            raise ConfigError("experiment.routes names a value twice: each value has one model.")


class Batching(msgspec.Struct, frozen=True):
    """How events share an inference without missing their deadline."""

    deadline_ms: Annotated[
        int, Meta(ge=1, le=60_000, description="From the record's Kafka timestamp to its acknowledged score.")
    ] = 50
    max_batch: Annotated[int, Meta(ge=1, le=1024, description="Most events in one inference.")] = 512
    publish_late: Annotated[
        bool, Meta(description="Publish scores that missed the deadline, marked late, instead of shedding them.")
    ] = False
    score_on: Annotated[
        Literal["all"] | tuple[str, ...],
        Meta(description='Event types that get a score: `"all"` with a viewer, or a list; the rest update state.'),
    ] = "all"
    in_flight: Annotated[int, Meta(ge=1, le=8, description="Batches between intake and acknowledgement at once.")] = 2

    def __post_init__(self) -> None:
        for name in () if self.score_on == "all" else self.score_on:
            if name not in VIEWER_TYPES:
                near = difflib.get_close_matches(name, VIEWER_TYPES, n=1)
                hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(VIEWER_TYPES)}."
                raise ConfigError(f"batching.score_on names {name}, which is no event type that has a viewer. {hint}")


class Features(msgspec.Struct, frozen=True):
    """What is kept in memory."""

    cache_viewers: Annotated[
        int,
        Meta(ge=1_000, le=50_000_000, description="Viewers whose rows stay in memory; more of them: fewer reads."),
    ] = 200_000
    room_refresh_ms: Annotated[
        int,
        Meta(
            ge=10,
            le=60_000,
            description="How often room counts are exchanged with other partitions; they are up to twice as old.",
        ),
    ] = 250


class State(msgspec.Struct, frozen=True):
    """How often progress is made durable. Neither setting can lose or double-count an event."""

    checkpoint_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000,
            description="Time between checkpoints of a partition; a crash repeats what came since. 0: one a batch.",
        ),
    ] = 250
    commit_ms: Annotated[
        int, Meta(ge=100, le=60_000, description="How often Kafka is told the offset, for the tools that show lag.")
    ] = 1_000


class Server(msgspec.Struct, frozen=True):
    """Where `/healthz`, `/readyz` and `/metrics` answer."""

    host: Annotated[Text, Meta(description="Address to listen on; `0.0.0.0` inside a container.")] = "127.0.0.1"
    port: Annotated[
        Port, Meta(description="Port to listen on; 0: any free one. Workers take the ones that follow.")
    ] = 9464


class Config(msgspec.Struct, frozen=True):
    """Everything above, and what belongs to no section."""

    kafka: Kafka = Kafka()
    redis: Redis = Redis()
    model: Model = Model()
    experiment: Experiment = Experiment()
    batching: Batching = Batching()
    features: Features = Features()
    state: State = State()
    server: Server = Server()
    drain_s: Annotated[
        float, Meta(ge=0.1, le=300, description="Longest that a stop may take to finish what was read.")
    ] = 5.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="How much is logged; never the clients' own debug lines, which print records."),
    ] = "info"


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Read `path` (or the file that TIPSTREAM_CONFIG names, or no file) and the variables over it.

    Nothing else in the product reads the environment. Raises ConfigError for the first thing that is wrong.
    """
    variables = dict(os.environ if environ is None else environ)
    named = variables.pop(ENV_FILE, "")
    return layered(Config, path or (Path(named) if named else None), variables, ENV_PREFIX)
