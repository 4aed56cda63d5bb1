"""A real Apache Kafka of one KRaft node, its jars fetched once by Maven; tests may kill, freeze and restart it."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from scorer.embedded.child import Child, ChildError
from scorer.ports import free_port

HERE: Final = Path(__file__).resolve().parent.parent / "kafka"
LIB: Final = HERE / "lib"

# The tests start many brokers for seconds: the quick compiler saves a second each. Benchmarks must not use it, it costs
# 20-40 % more CPU under load.
QUICK: Final = ("-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
STEADY: Final = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC")

SETTINGS: Final[Mapping[str, str]] = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,"
    + ",".join(f"{name}:{name}" for name in ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")),
    "auto.create.topics.enable": "false",  # a misspelt topic is an error, not a topic
    "offsets.topic.num.partitions": "4",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "log.index.size.max.bytes": "1048576",
    "broker.session.timeout.ms": "2000",  # a killed broker cannot register again before this is over
    "broker.heartbeat.interval.ms": "500",
    "controlled.shutdown.enable": "false",  # there is no other broker to hand the partitions to
}


def missing() -> str | None:
    """Why no Kafka can run here, None if one can."""
    absent = [name for name in ("java", "mvn") if shutil.which(name) is None]
    if not absent or (jars_complete() and absent == ["mvn"]):
        return None
    return f"no {' and no '.join(absent)}: real Kafka needs Java 17 and Maven (apt install default-jdk-headless maven)"


def jars_complete() -> bool:
    """Whether LIB holds what the POM asks for now."""
    mark = LIB / "pom.sha256"
    return mark.exists() and mark.read_text() == pom_hash()


def pom_hash() -> str:
    """Give what changes when other jars are wanted."""
    return hashlib.sha256((HERE / "pom.xml").read_bytes()).hexdigest()


def fetch_jars() -> None:
    """Have Maven copy the jars to LIB, once; a second process waits for the first."""
    LIB.mkdir(exist_ok=True)
    with (LIB / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if jars_complete():
            return
        for old in LIB.glob("*.jar"):
            old.unlink()
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={LIB}", "-DincludeScope=runtime"]
        done = subprocess.run(["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), *goal], capture_output=True, text=True)
        if done.returncode:
            raise ChildError(f"Maven could not fetch Kafka's jars: {(done.stdout + done.stderr).strip()[-2000:]}")
        (LIB / "pom.sha256").write_text(pom_hash())


class Broker:
    """One node, broker and controller, with its files in `folder`; restarts find ports and data again.

    `settings` are laid over everything else, so that a test may add listeners, or make this node one of three
    (`node.id`, `controller.quorum.voters`, the replication factors, the same `cluster` for all). `users` are names and
    passwords for SASL/SCRAM-SHA-512, known from the first start on.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settings: Mapping[str, str] | None = None,
        jvm: tuple[str, ...] = QUICK,
        cluster: str = "",
        users: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing runs yet. `cluster` is the id that nodes of one cluster share, made up when empty."""
        self.folder = folder
        self.port, self.controller_port = free_port(), free_port()
        self.cluster = cluster or base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")
        self.jvm = jvm
        self.users = users or {}
        self.settings = {
            **SETTINGS,
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "log.dirs": str(folder / "data"),
            **(settings or {}),
        }
        self.child: Child | None = None

    @property
    def bootstrap(self) -> str:
        """Address of the plain listener."""
        return f"127.0.0.1:{self.port}"

    def start(self, timeout: float = 60.0) -> None:
        """Run it and wait until it listens (2-3 s on an idle machine); ChildError in words if it does not."""
        self.launch()
        self.wait(timeout)

    def launch(self) -> None:
        """Run it without waiting: the nodes of a quorum listen only when a majority is there."""
        fetch_jars()
        self.folder.mkdir(parents=True, exist_ok=True)
        properties = self.folder / "server.properties"
        properties.write_text("".join(f"{name}={value}\n" for name, value in self.settings.items()))
        if not (self.folder / "data").exists():
            self.format(properties)
        self.child = Child(
            self.java(*self.jvm, "kafka.Kafka", str(properties)),
            log=self.folder / "kafka.log",
            orphaned=signal.SIGKILL,  # nobody is left to read the data
        )

    def format(self, properties: Path) -> None:
        """Write the cluster's id into the empty data folder, which KRaft wants before a first start."""
        tool = self.java("-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool", "format")
        # As one word: an id may begin with a hyphen.
        arguments = [f"--cluster-id={self.cluster}", "-c", str(properties)]
        for name, password in self.users.items():
            arguments += ["--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]"]
        done = subprocess.run([*tool, *arguments], capture_output=True, text=True)
        if done.returncode:
            raise ChildError(f"Kafka's storage could not be formatted: {(done.stdout + done.stderr).strip()[-2000:]}")

    @staticmethod
    def java(*arguments: str) -> list[str]:
        """Give the command line of one of Kafka's programs; JVM options come first."""
        return ["java", f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}", "-cp", f"{LIB}/*", *arguments]

    def wait(self, timeout: float = 60.0) -> None:
        """Wait until it listens."""
        assert self.child is not None, "launch it first"
        deadline = time.monotonic() + timeout
        while not self.listens():
            if not self.child.running or time.monotonic() > deadline:
                raise self.child.failed("did not listen")
            time.sleep(0.02)

    def listens(self) -> bool:
        """Whether something accepts connections on the plain listener's port."""
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """End it in order; killed after 10 s. Nothing happens if it does not run."""
        if self.child:
            self.child.stop()

    def kill(self) -> None:
        """SIGKILL; `start()` recovers the logs."""
        assert self.child is not None, "not started"
        self.child.kill()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        assert self.child is not None, "not started"
        self.child.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self.child is not None, "not started"
        self.child.signal(signal.SIGCONT)
