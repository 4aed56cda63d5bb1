"""Redis over TLS and with a user that may do what the service does and nothing else."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pytest
from redis.asyncio import Redis as Client
from redis.exceptions import ResponseError

from features.redis_admin import RIGHTS
from scorer import check
from scorer.config import Config, Redis, Secret
from scorer.ports import free_port
from tests.conftest import Topics
from tests.integration.member import make_setup, produce, record, serving, until_consumed
from tests.integration.test_service import chatter
from tests.services import redis
from tests.services.authority import Authority
from tests.services.kafka import Broker
from tests.services.missing import require
from tests.services.redis import Redis as Server

# redis-py leaves the connection of a client that is refused to the garbage collector.
REFUSED: Final = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
pytestmark = [pytest.mark.redis, REFUSED]

SHIPPED: Final = Path(__file__).parents[2] / "deploy/users.acl"
PASSWORD: Final = "correct-horse"
HOUR: Final = datetime.timedelta(hours=1)


class Secured(NamedTuple):
    """A Redis with TLS and the users that ship, and one more for the tests themselves."""

    server: Server
    port: int
    authority: Authority
    stranger: Authority

    def at(self, **changes: Any) -> Redis:
        """Settings that lead to it, right but for the changes."""
        right = {
            "url": f"rediss://127.0.0.1:{self.port}/1",
            "cafile": self.authority.cafile,
            "username": "tipstream",
            "password": Secret(PASSWORD),
            "timeout_ms": 2_000,
        }
        return Redis(**{**right, **changes})

    def admin(self) -> Any:
        """A client that may do everything, over the plain port."""
        return Client(port=self.server.port, username="admin", password="admin", decode_responses=True)


def started(folder: Path, authority: Authority, **certificate: Any) -> tuple[Server, int]:
    folder.mkdir()
    mine = authority.issue(f"redis-{folder.name}", **certificate)
    users = SHIPPED.read_text().replace(" on ", f" on #{hashlib.sha256(PASSWORD.encode()).hexdigest()} ")
    (folder / "users.acl").write_text(users + "user admin on >admin ~* &* +@all\n")
    port = free_port()
    settings = {
        "tls-port": str(port),
        "tls-cert-file": str(mine.cert),
        "tls-key-file": str(mine.key),
        "tls-ca-cert-file": str(authority.cafile),
        "tls-auth-clients": "no",
        "aclfile": str(folder / "users.acl"),
    }
    server = Server(folder, settings=settings)
    server.start()
    return server, port


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """One for all tests here."""
    require(redis.missing())
    folder = tmp_path_factory.mktemp("redis-tls")
    authority = Authority(folder)
    server, port = started(folder / "good", authority)
    yield Secured(server, port, authority, Authority(folder, "stranger"))
    server.stop()


@pytest.mark.kafka
async def test_the_whole_service_does_with_the_rights_that_ship_and_needs_each_of_them(
    secured: Secured, kafka_broker: Broker, kafka_topics: Topics
) -> None:
    setup = await make_setup(kafka_broker.bootstrap, "redis://127.0.0.1:1/0", kafka_topics, partitions=2)
    config = msgspec.structs.replace(setup.config, redis=secured.at())
    events = chatter(300)
    events[150].type = "erase"
    async with secured.admin() as admin:
        await admin.acl_log_reset()
        await admin.config_resetstat()
        for half in (events[:150], events[150:]):  # the second finds its rows in Redis
            await produce(setup, [record(event, 2) for event in half])
            async with serving(config) as service:
                await until_consumed(service, len(half))
                await service._rooms.exchange()
                assert service.metrics.totals().unaccounted == 0
                last = service._ownership.leases[0]
                await service._store.clear(0, last.epoch)  # as before rows are rebuilt
        called = {name.removeprefix("cmdstat_") for name in await admin.info("commandstats")}
        assert not [finding for finding in await check.redis(config.redis) if finding.level == "problem"]
        log = await admin.acl_log()
    refused = {entry["object"] for entry in log}
    assert refused <= {"info", "config|get"}, "what the check would like to see; the service asks for nothing more"
    needed = {right.removeprefix("+") for right in RIGHTS if right.startswith("+")}
    assert needed - called == {"ping", "command", "cluster|slots"}, "which the check asks, and a cluster is asked"


async def test_nothing_else_is_allowed(secured: Secured) -> None:
    async with secured.admin() as admin:
        user = await admin.acl_getuser("tipstream")
        default = await admin.acl_getuser("default")
    assert "off" in default["flags"]
    assert {"-@all", *user["commands"]} == {"-@all", *(right for right in RIGHTS if right.startswith("+"))}
    assert user["keys"] in ("~ts:*", ["~ts:*"])
    assert not user["channels"]
    assert f"user tipstream on resetchannels -@all {' '.join(RIGHTS)}" in SHIPPED.read_text().splitlines()
    mine: Any = Client(port=secured.server.port, username="tipstream", password=PASSWORD)
    async with mine:
        for command in ("FLUSHALL", "KEYS *", "CONFIG GET *", "ACL WHOAMI", "SCRIPT FLUSH",
                        "GET other", "EVAL return{redis.call('GET',KEYS[1])} 1 other",
                        "EVAL return{redis.call('KEYS',ARGV[1])} 0 ts:*"):  # fmt: skip
            with pytest.raises(ResponseError, match=r"(?i)no permissions|can't (run|access)"):
                await mine.execute_command(*command.split())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"password": Secret("guess")}, "invalid username-password pair"),
        ({"username": "nobody"}, "invalid username-password pair"),
        ({"username": None, "password": None}, "already authenticated|(?i:authentication required)"),
        ({"cafile": "stranger"}, "certificate verify failed"),
        ({"url": "redis"}, "(?i)closed|reset|timeout|broken pipe"),
        ({"url": "elsewhere"}, "(?i)hostname mismatch|doesn't match|IP address mismatch|localhost"),
    ],
    ids=["password", "user", "nobody at all", "authority", "no TLS", "name"],
)
async def test_what_is_wrong_is_told_in_words(secured: Secured, wrong: dict[str, Any], words: str) -> None:
    changed = dict(wrong)
    if "cafile" in changed:
        changed["cafile"] = secured.stranger.cafile
    match changed.get("url"):
        case "redis":
            changed |= {"url": f"redis://127.0.0.1:{secured.port}/1", "cafile": None}
        case "elsewhere":
            changed["url"] = f"rediss://localhost:{secured.port}/1"
    (finding,) = await check.redis(secured.at(**changed))
    assert finding.level == "problem"
    assert re.search(words, finding.seen), finding.seen
    assert "guess" not in finding.seen


async def test_an_expired_certificate_is_told(tmp_path: Path) -> None:
    require(redis.missing())
    authority = Authority(tmp_path)
    server, port = started(tmp_path / "expired", authority, since=-2 * HOUR, until=-HOUR)
    try:
        (finding,) = await check.redis(Redis(url=f"rediss://127.0.0.1:{port}/0", cafile=authority.cafile))
        assert "certificate has expired" in finding.seen
    finally:
        server.stop()


@pytest.mark.kafka
async def test_a_service_that_redis_does_not_let_in_waits_and_says_why(
    secured: Secured, kafka_broker: Broker, kafka_topics: Topics
) -> None:
    setup = await make_setup(kafka_broker.bootstrap, "redis://127.0.0.1:1/0", kafka_topics, partitions=1)
    config: Config = msgspec.structs.replace(setup.config, redis=secured.at(password=Secret("guess")))
    await produce(setup, [record(event, 1) for event in chatter(20)])
    async with serving(config) as service:
        async with asyncio.timeout(60):
            while not any("invalid username-password" in why for why in service.health.against_readiness()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert service.health.against_life() == []
        assert service.metrics.totals().consumed == 0
    async with serving(msgspec.structs.replace(config, redis=secured.at())) as service:
        await until_consumed(service, 20)
        assert service.metrics.totals().scored == 20
