"""Why no broker serves us, in words: the client library says only that none does."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from typing import Final, NamedTuple

from aiokafka.conn import AIOKafkaConnection, collect_hosts, create_conn
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
    for_code,
)
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.metadata import MetadataRequest

from scorer.config import ConfigError, Kafka
from scorer.kafka.client import options

__all__ = ["Refusal", "Unreachable", "named", "refusal", "unreachable"]

_PATIENCE_S: Final = 3.0  # for one broker; we have waited for it before

_GROUP: Final = 0  # the kind of coordinator

# OpenSSL's numbers for what is wrong with a certificate (x509_vfy.h).
_NOT_YET, _EXPIRED, _HOSTNAME, _ADDRESS = 9, 10, 62, 64


class Refusal(NamedTuple):
    """What each broker did when it was asked by itself. `final`: they are there, and waiting will not change it."""

    words: str
    final: bool


class Unreachable(Exception):
    """No broker serves us; the message says why."""

    def __init__(self, why: Refusal) -> None:
        super().__init__(f"Kafka does not serve us. {why.words}")
        self.final = why.final


async def unreachable(config: Kafka, error: Exception) -> Unreachable:
    """Find out why, after a client of ours failed with an error that says less."""
    why = await refusal(config)
    return Unreachable(why._replace(words=f"{why.words} ({named(error)})"))


def named(error: BaseException) -> str:
    """Return an error with the name of its kind, which the client library's own errors say themselves."""
    return str(error) if isinstance(error, KafkaError) else f"{type(error).__name__}: {error}"


async def refusal(config: Kafka) -> Refusal:
    """Ask every broker of `kafka.bootstrap` once more, by itself, and tell what happens."""
    try:
        shared = _connection(config)
    except ConfigError as error:  # certificates in the middle of being renewed, if they could be used before
        return Refusal(str(error), final=False)
    hosts = collect_hosts(config.bootstrap, randomize=False)
    found = await asyncio.gather(*(_ask(config, shared, host, port) for host, port, _ in hosts))
    return Refusal(" ".join(words for words, _ in found), any(final for _, final in found))


async def _ask(config: Kafka, shared: Mapping[str, object], host: str, port: int) -> tuple[str, bool]:
    where = f"{host}:{port}"
    connection: AIOKafkaConnection | None = None
    try:
        async with asyncio.timeout(_PATIENCE_S):
            connection = await create_conn(host, port, **shared)
            lacking = await _lacking(connection, config)
    except (KafkaError, OSError, TimeoutError) as error:
        words, final = _words(config, error)
        return f"{where} {words}.", final
    finally:
        if connection is not None:
            connection.close()
    if lacking:
        who = "us" if config.username is None else f"user {config.username}"
        return f"{where} does not let {who} {' nor '.join(lacking)}: docs/security.md has the rights to grant.", True
    return f"{where} answers.", False


async def _lacking(connection: AIOKafkaConnection, config: Kafka) -> list[str]:
    """What we may not do there."""
    kinds = {config.events_topic: "read", config.scores_topic: "write to", config.dlq_topic: "write to"}
    answer = await connection.send(MetadataRequest(list(kinds), allow_auto_topic_creation=False))
    refused = [entry[1] for entry in answer.topics if for_code(entry[0]) is TopicAuthorizationFailedError]
    lacking = [f"{kinds[topic]} topic {topic}" for topic in refused]
    group = await connection.send(FindCoordinatorRequest(config.group, _GROUP))
    if for_code(group.error_code) is GroupAuthorizationFailedError:
        lacking.append(f"join group {config.group}")
    return lacking


def _connection(config: Kafka) -> dict[str, object]:
    wanted = ("ssl_context", "security_protocol", "sasl_mechanism", "sasl_plain_username", "sasl_plain_password")
    return {name: value for name, value in options(config).items() if name in wanted}


def _words(config: Kafka, error: Exception) -> tuple[str, bool]:
    """What a person should read after the broker's address, and whether it is final."""
    cause = error.__cause__ if isinstance(error, KafkaError) and error.__cause__ else error
    match cause:
        case ssl.SSLCertVerificationError():
            return _certificate(cause), True
        case ssl.SSLError() if "ALERT" in (cause.reason or ""):
            return _alert(config, cause), True
        case ssl.SSLError():
            return (
                f"does not speak TLS there ({cause.reason or cause}): kafka.protocol {config.protocol} wants the "
                "port of a TLS listener"
            ), True
        case SaslAuthenticationFailed():
            return (
                f"refuses user {config.username} ({cause}): look at kafka.username, the password and kafka.mechanism"
            ), True
        case UnsupportedSaslMechanismError():
            return f"does not know kafka.mechanism {config.mechanism} ({cause})", True
        case socket.gaierror():
            return "is a name that cannot be resolved: look at kafka.bootstrap", False
        case TimeoutError():
            return f"says nothing for {_PATIENCE_S:.0f} s: it is overloaded, or speaks another kafka.protocol", False
        case ConnectionRefusedError():
            return "is not listened on: no broker runs there, or kafka.bootstrap names the wrong port", False
        case EOFError() | ConnectionError():
            return (
                f"closes the connection at our first words: its listener there speaks another kafka.protocol than "
                f"{config.protocol}, or wants another user"
            ), False
    return f"cannot be used ({named(error)})", False


def _certificate(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code == _EXPIRED:
        return "shows a certificate that has expired: renew it on the broker (or mend the clock of this machine)"
    if error.verify_code == _NOT_YET:
        return "shows a certificate that is not valid yet: mend the clock of the broker or of this machine"
    if error.verify_code in (_HOSTNAME, _ADDRESS):
        return f"shows a certificate for another name ({error.verify_message}): use a name that is in it"
    return (
        f"shows a certificate that we do not trust ({error.verify_message}): kafka.cafile must hold the authority that "
        "signed it"
    )


def _alert(config: Kafka, error: ssl.SSLError) -> str:
    told = (error.reason or "").partition("ALERT_")[2].replace("_", " ").lower()
    if config.certfile is None:
        return f"wants to know who we are ({told}): set kafka.certfile and kafka.keyfile"
    return (
        f"does not accept our certificate ({told}): kafka.certfile must be valid now and signed by an authority that "
        "the broker trusts"
    )
