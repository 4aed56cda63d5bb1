"""Mutual TLS and SASL/SCRAM with a real broker: it works, and each thing that can be wrong is told in a sentence."""

from __future__ import annotations

import asyncio
import datetime
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from scorer import check
from scorer.config import Config, Kafka, Secret
from scorer.embedded.child import Child
from scorer.kafka.refusal import Unreachable
from scorer.kafka.sink import Sink
from tests.integration.member import Setup, make_setup, produce, read_scores, record, serving, until_consumed
from tests.integration.secured import PASSWORD, REAUTH_MS, USER, Secured, like, shown
from tests.integration.test_service import chatter
from tests.services import kafka
from tests.services.missing import require
from tests.services.topics import create_topic

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

HOUR = datetime.timedelta(hours=1)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A broker that lets nobody in without a certificate or a password."""
    require(kafka.missing())
    secured = Secured(tmp_path_factory.mktemp("secured"))
    secured.start()
    yield secured
    secured.broker.stop()


@pytest.fixture(autouse=True)
async def nothing_left_open() -> AsyncIterator[None]:
    """A TLS connection waits for the other side's farewell; the test's event loop ends before that comes."""
    yield
    for transport in list(asyncio.get_running_loop()._transports.values()):  # type: ignore[attr-defined]
        transport.abort()
    await asyncio.sleep(0)


@asynccontextmanager
async def setup_of(
    secured: Secured, redis_url: str, way_in: Kafka, *, but: str = ""
) -> AsyncIterator[tuple[Setup, Config]]:
    """Topics that the scorer may use, as the tests see them and as the scorer reaches them; `but` one."""

    async def topics(name: str = "topic", partitions: int = 4, settings: object = None) -> str:
        return await create_topic(secured.broker.bootstrap, name, partitions)

    setup = await make_setup(secured.broker.bootstrap, redis_url, topics, partitions=2)
    await secured.grant(setup.config.kafka, USER, "CN=client", but=[but])
    yield setup, msgspec.structs.replace(setup.config, kafka=like(setup.config.kafka, way_in))


@pytest.mark.parametrize("listener", ["MTLS", "SCRAM"])
async def test_every_event_is_scored_with_no_more_rights_than_documented(
    secured: Secured, redis_url: str, listener: str
) -> None:
    async with setup_of(secured, redis_url, secured.at(listener)) as (setup, config):
        await produce(setup, [record(event, 2) for event in chatter(200)] + [(0, b"k", b"no event")])
        async with serving(config) as service:
            await until_consumed(service, 201)
            totals = service.metrics.totals()
        assert (totals.scored, totals.rejected, totals.unaccounted) == (200, 1, 0)
        assert sum(map(len, (await read_scores(setup)).values())) == 200


Change = Callable[[Secured], Kafka]
WRONG: dict[str, tuple[Change, str]] = {
    "password": (
        lambda s: s.at("SCRAM", password=Secret("wrong")),
        r"refuses user scorer \(.*invalid credentials.*\): look at kafka\.username, the password",
    ),
    "user": (lambda s: s.at("SCRAM", username="nobody"), "refuses user nobody .*look at kafka.username"),
    "mechanism": (lambda s: s.at("SCRAM", mechanism="PLAIN"), "does not know kafka.mechanism PLAIN"),
    "authority": (
        lambda s: s.at("SCRAM", cafile=s.stranger.cafile),
        "shows a certificate that we do not trust .*kafka.cafile must hold the authority",
    ),
    "broker's certificate expired": (lambda s: s.at("EXPIRED"), "shows a certificate that has expired: renew it"),
    "another broker": (lambda s: s.at("ELSEWHERE"), "shows a certificate for another name .*127.0.0.1"),
    "no certificate of ours": (
        lambda s: s.at("MTLS", certfile=None, keyfile=None),
        "wants to know who we are .*set kafka.certfile and kafka.keyfile",
    ),
    "our certificate expired": (
        lambda s: s.at("MTLS", **shown(s.authority.issue("late", since=-2 * HOUR, until=-HOUR))),
        "does not accept our certificate .*must be valid now",
    ),
    "our certificate from a stranger": (
        lambda s: s.at("MTLS", **shown(s.stranger.issue("intruder"))),
        "does not accept our certificate .*signed by an authority that the broker trusts",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_is_wrong_is_told_at_once_and_waiting_does_not_mend_it(secured: Secured, wrong: str) -> None:
    change, words = WRONG[wrong]
    async with asyncio.timeout(60):
        with pytest.raises(Unreachable, match=f"^Kafka does not serve us. 127.0.0.1:\\d+ {words}") as told:
            await Sink(change(secured)).start()
    assert told.value.final
    assert PASSWORD not in str(told.value)


@pytest.mark.parametrize(
    "mixed_up",
    [
        lambda s: Kafka(bootstrap=s.at("SCRAM").bootstrap),
        lambda s: msgspec.structs.replace(s.at("MTLS"), bootstrap=s.at("SCRAM").bootstrap),
        lambda s: msgspec.structs.replace(s.at("MTLS"), bootstrap=s.broker.bootstrap),
    ],
    ids=["plain to TLS", "TLS alone to SASL", "TLS to plain"],
)
async def test_another_protocol_is_suspected_in_words(secured: Secured, mixed_up: Change) -> None:
    async with asyncio.timeout(60):
        with pytest.raises(Unreachable, match=r"another kafka\.protocol"):
            await Sink(mixed_up(secured)).start()


async def test_the_check_tells_it_too(secured: Secured) -> None:
    (finding,) = await check.kafka(secured.at("SCRAM", password=Secret("wrong")))
    assert finding.level == "problem"
    assert "refuses user scorer" in finding.seen


async def test_a_wrong_password_ends_the_command_with_a_sentence_and_is_not_tried_for_ever(
    secured: Secured, tmp_path: Path
) -> None:
    way_in = secured.at("SCRAM")
    (tmp_path / "password").write_text("wrong")
    (tmp_path / "t.toml").write_text(
        f"""
        [kafka]
        bootstrap = "{way_in.bootstrap}"
        protocol = "SASL_SSL"
        cafile = "{way_in.cafile}"
        username = "{USER}"
        password_file = "{tmp_path / "password"}"
        [server]
        port = 0
        """
    )
    command = [sys.executable, "-m", "scorer.cli", "serve", "--config", str(tmp_path / "t.toml")]
    with Child([*command, "--workers", "2"], log=tmp_path / "log") as child:
        status = await asyncio.to_thread(child.process.wait, 50)
    said = (tmp_path / "log").read_text()
    assert status == 1
    assert f"refuses user {USER}" in said
    assert "Traceback" not in said
    assert "wrong" not in said.replace("wrong port", "")
    assert "died once, at last it ended with status 2" in said


@pytest.mark.parametrize(("lacking", "words"), [("events_topic", "read topic events"), ("group", "join group g")])
async def test_a_right_to_read_that_is_missing_is_told_at_the_start(
    secured: Secured, redis_url: str, lacking: str, words: str
) -> None:
    async with setup_of(secured, redis_url, secured.at("SCRAM"), but=lacking) as (_, config), asyncio.timeout(60):
        with pytest.raises(Unreachable, match=rf"does not let user {USER} {words}\S+: docs/security\.md") as told:
            async with serving(config):
                pass
    assert told.value.final


async def test_a_right_to_write_that_is_missing_is_waited_for_with_the_reason_told(
    secured: Secured, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with setup_of(secured, redis_url, secured.at("SCRAM"), but="scores_topic") as (setup, config):
        await produce(setup, [*(record(event, 2) for event in chatter(20)), (0, b"k", b"no event")])
        async with serving(config) as service:
            async with asyncio.timeout(60):
                while not any("write to topic" in why for why in service.health.against_readiness()):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert service.health.against_life() == []
            assert len(caplog.messages) < 100, "and nobody's log is flooded with it"
            await secured.grant(config.kafka, USER)
            await until_consumed(service, 21)
            totals = service.metrics.totals()
        assert (totals.scored, totals.rejected, totals.unaccounted) == (20, 1, 0)


async def test_credentials_that_must_be_shown_again_cost_no_event(secured: Secured, redis_url: str) -> None:
    """The client cannot show them again on an open connection (KIP-368): the broker hangs up, and it comes back."""
    async with setup_of(secured, redis_url, secured.at("REAUTH")) as (setup, config):
        async with serving(config) as service:
            ends = asyncio.get_running_loop().time() + 3.5 * REAUTH_MS / 1000
            sent = 0
            while asyncio.get_running_loop().time() < ends:
                events = chatter(20, seed=sent)
                await produce(setup, [record(event, 2) for event in events])
                sent += len(events)
                await asyncio.sleep(0.1)
            await until_consumed(service, sent)
            totals = service.metrics.totals()
        scores = [scored.offset for part in (await read_scores(setup)).values() for scored in part]
    assert (totals.scored, totals.unaccounted) == (sent, 0)
    assert len(scores) == sent, "and none was published twice"


async def test_withdrawn_credentials_are_waited_for_with_the_reason_told(secured: Secured, redis_url: str) -> None:
    async with setup_of(secured, redis_url, secured.at("REAUTH")) as (setup, config):
        async with serving(config) as service:
            await produce(setup, [record(event, 2) for event in chatter(50)])
            await until_consumed(service, 50)
            try:
                await secured.set_password(None)
                async with asyncio.timeout(60):
                    while not service.health.against_readiness():  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                (reason,) = service.health.against_readiness()
                assert f"refuses user {USER}" in reason
                await produce(setup, [record(event, 2) for event in chatter(50, seed=1)])
                assert service.health.against_life() == []
            finally:
                await secured.set_password(PASSWORD)
            await until_consumed(service, 100)
            totals = service.metrics.totals()
            async with asyncio.timeout(60):
                while service.health.against_readiness():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        assert (totals.scored, totals.unaccounted) == (100, 0)
