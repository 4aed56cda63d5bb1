"""One real broker with a listener for each way in, and one for each thing that can be wrong with it."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its __init__ says not what it exports
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)

from scorer.config import Kafka, Secret
from scorer.ports import free_port
from tests.services.authority import Authority, Certificate
from tests.services.kafka import SETTINGS, Broker

USER: Final = "scorer"
PASSWORD: Final = "correct-horse"
REAUTH_MS: Final = 1_000

_HOUR: Final = datetime.timedelta(hours=1)
_LISTENERS: Final = {
    "MTLS": "SSL",
    "SCRAM": "SASL_SSL",
    "REAUTH": "SASL_SSL",  # every connection must show its credentials again after REAUTH_MS
    "EXPIRED": "SSL",  # the broker's certificate is over
    "ELSEWHERE": "SSL",  # the broker's certificate is for another address
}

# What docs/security.md tells to grant, and nothing else: (resource, name of the setting, operations).
RIGHTS: Final = (
    (ResourceType.TOPIC, "events_topic", (AclOperation.READ,)),
    (ResourceType.TOPIC, "scores_topic", (AclOperation.WRITE,)),
    (ResourceType.TOPIC, "dlq_topic", (AclOperation.WRITE,)),
    (ResourceType.GROUP, "group", (AclOperation.READ,)),
)


class Secured:
    """The broker, who signed what, and the settings that lead to each listener."""

    def __init__(self, folder: Path) -> None:
        """Nothing runs yet."""
        self.authority = Authority(folder / "tls")
        self.stranger = Authority(folder / "tls", "stranger")
        self.client = self.authority.issue("client")
        self._ports = {name: free_port() for name in _LISTENERS}
        self.broker = Broker(folder / "kafka", settings=self._settings(), users={USER: PASSWORD})

    def _settings(self) -> Mapping[str, str]:
        sign = self.authority.issue
        certificates = dict.fromkeys(_LISTENERS, sign("broker"))
        certificates["EXPIRED"] = sign("expired-broker", since=-2 * _HOUR, until=-_HOUR)
        certificates["ELSEWHERE"] = sign("elsewhere", address="127.0.0.2")
        plain, controller = free_port(), free_port()
        addresses = ",".join(f"{name}://127.0.0.1:{port}" for name, port in self._ports.items())
        advertised = f"PLAINTEXT://127.0.0.1:{plain},{addresses}"
        protocols = ",".join(f"{name}:{protocol}" for name, protocol in _LISTENERS.items())
        settings = {
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"{advertised},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": advertised,
            "listener.security.protocol.map": f"{SETTINGS['listener.security.protocol.map']},{protocols}",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",  # the tests themselves, over PLAINTEXT
        }
        for name, protocol in _LISTENERS.items():
            prefix = f"listener.name.{name.lower()}"
            settings |= {
                f"{prefix}.ssl.keystore.type": "PEM",
                f"{prefix}.ssl.keystore.location": str(certificates[name].both),
                f"{prefix}.ssl.truststore.type": "PEM",
                f"{prefix}.ssl.truststore.location": str(self.authority.cafile),
            }
            if protocol == "SASL_SSL":
                login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
                settings[f"{prefix}.scram-sha-512.sasl.jaas.config"] = login
        settings["listener.name.mtls.ssl.client.auth"] = "required"
        settings["listener.name.reauth.connections.max.reauth.ms"] = str(REAUTH_MS)
        self._plain = plain
        return settings

    def start(self) -> None:
        """Run it and wait until it listens."""
        self.broker.port = self._plain
        self.broker.start()
        self._admin = AdminClient({"bootstrap.servers": self.broker.bootstrap, "log_level": 0})

    def at(self, listener: str, **changes: Any) -> Kafka:
        """Settings for a listener, complete and right but for the changes."""
        protocol = _LISTENERS.get(listener, "PLAINTEXT")
        port = self._ports.get(listener, self._plain)
        right: dict[str, Any] = {"bootstrap": f"127.0.0.1:{port}", "protocol": protocol}
        if protocol != "PLAINTEXT":
            right["cafile"] = self.authority.cafile
        if listener == "MTLS":
            right |= shown(self.client)
        if protocol == "SASL_SSL":
            right |= {"username": USER, "password": Secret(PASSWORD)}
        return Kafka(**{**right, **changes})

    async def grant(self, config: Kafka, *principals: str, but: Iterable[str] = ()) -> None:
        """Allow what a scorer needs on its topics and group; `but` names settings that are left out."""
        bindings = [
            AclBinding(
                kind, getattr(config, name), ResourcePatternType.LITERAL, f"User:{principal}", "*", operation,
                AclPermissionType.ALLOW,
            )
            for principal in principals
            for kind, name, operations in RIGHTS
            for operation in operations
            if name not in but
        ]  # fmt: skip
        await self._done(self._admin.create_acls(bindings))

    async def set_password(self, password: str | None) -> None:
        """Give the user another password, or forget the user."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = (
            UserScramCredentialDeletion(USER, ScramMechanism.SCRAM_SHA_512)
            if password is None
            else UserScramCredentialUpsertion(USER, info, password.encode())
        )
        await self._done(self._admin.alter_user_scram_credentials([change]))

    @staticmethod
    async def _done(futures: Mapping[Any, Any]) -> None:
        for future in futures.values():
            await asyncio.to_thread(future.result, 10)


def shown(certificate: Certificate) -> dict[str, Path]:
    """Settings that show a certificate to the broker."""
    return {"certfile": certificate.cert, "keyfile": certificate.key}


def like(config: Kafka, way_in: Kafka) -> Kafka:
    """The topics and group of one configuration, reached as another says."""
    names = ("group", "events_topic", "scores_topic", "dlq_topic", "session_timeout_ms")
    return msgspec.structs.replace(way_in, **{name: getattr(config, name) for name in names})
