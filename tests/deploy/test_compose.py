"""The compose file, the image and the lock, as far as reading goes; and Redis's settings in a real Redis."""

from __future__ import annotations

import asyncio
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scorer import check, config
from scorer.config import Kafka, Redis
from scorer.embedded.child import Child
from scorer.embedded.redis import binary
from scorer.ports import free_port
from tests.services import redis
from tests.services.missing import require

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
LOCK = (ROOT / "deploy/requirements.lock").read_text()


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["user"].split(":")[0] not in ("", "0", "root")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.search(r":v?\d+\.\d+\.\d+", service["image"]), "the image has a version"
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), "nothing listens beyond this machine"


@pytest.mark.parametrize("name", set(SERVICES) - {"topics", "player"})
def test_every_server_has_a_health_check(name: str) -> None:
    assert "healthcheck" in SERVICES[name] or ("HEALTHCHECK" in DOCKERFILE and name == "scorer")


def test_the_order_of_starting() -> None:
    def waits(name: str) -> dict[str, str]:
        return {other: how["condition"] for other, how in SERVICES[name]["depends_on"].items()}

    assert waits("topics") == {"kafka": "service_healthy"}
    assert waits("scorer") == {"topics": "service_completed_successfully", "redis": "service_healthy"}
    assert waits("player") == {"scorer": "service_healthy"}


def test_the_scorers_variables_are_settings() -> None:
    image = dict(re.findall(r"(TIPSTREAM_\w+)=(\S+)", DOCKERFILE))
    loaded = config.load(None, {**image, **SERVICES["scorer"]["environment"]})
    assert loaded.kafka.bootstrap == "kafka:9092"
    assert loaded.server.host == "0.0.0.0"


def test_the_topics_that_are_made_are_those_that_are_read() -> None:
    (script,) = SERVICES["topics"]["command"]
    made = set(re.findall(r"^create (\S+)", script, re.MULTILINE))
    assert made == {Kafka().events_topic, Kafka().scores_topic, Kafka().dlq_topic}


def test_mounted_files_are_there() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            if volume.startswith("./"):
                assert (ROOT / volume.split(":")[0]).exists()
                assert volume.endswith(":ro")


def test_the_image_runs_as_nobody_on_locked_packages() -> None:
    assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.MULTILINE)
    assert "--require-hashes" in DOCKERFILE
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for path in source.split():
            assert f"!{path}" in (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()


def test_the_lock_covers_every_dependency_with_hashes_and_no_address() -> None:
    pinned = re.findall(r"^([a-z0-9-]+)==\S+(.*(?:\n    .*)+)", LOCK, re.MULTILINE)
    assert all("--hash=sha256:" in rest for _, rest in pinned)
    assert len(pinned) == len(re.findall("^[a-z0-9-]+==", LOCK, re.MULTILINE))
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {re.split(r"[\[<>=;]", line)[0].lower() for line in wanted} <= {name for name, _ in pinned}
    assert "://" not in LOCK
    assert "index" not in LOCK.split("\n", 4)[4]


@pytest.fixture
def our_redis(tmp_path: Path) -> Iterator[str]:
    """Address of a real Redis that was started with the shipped file."""
    require(redis.missing())
    program = binary()
    assert program is not None
    port = free_port()
    overrides = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)]
    server = Child([program, str(ROOT / "deploy/redis.conf"), *overrides], log=tmp_path / "log")
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.stop()


@pytest.mark.redis
async def test_redis_with_our_settings_passes_our_check(our_redis: str) -> None:
    async with asyncio.timeout(20):
        while (findings := await check.redis(Redis(url=our_redis)))[0].level != "ok":  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # another process says when
    assert [finding for finding in findings if finding.level != "ok" and finding.what != "Redis version"] == []
