"""What every Kafka client of the service is built with."""

import ssl
from typing import Any

from scorer.config import Kafka

# A JoinGroup waits for the whole group, so a request may last as long as a rebalance; but one broker that does not
# answer holds up every new connection for as long (aiokafka opens them one at a time). Hence: just above.
REBALANCE_TIMEOUT_MS = 5_000
REQUEST_TIMEOUT_MS = 8_000


class Unreachable(Exception):
    """No broker answers, or none lets us in; the message says what to look at."""

    def __init__(self, config: Kafka, cause: Exception) -> None:
        super().__init__(
            f"No broker of {config.bootstrap} serves us ({type(cause).__name__}: {cause}). Look at kafka.bootstrap, "
            "kafka.protocol and the credentials; `tipstream check` tells more."
        )


def options(config: Kafka) -> dict[str, Any]:
    """Keyword arguments shared by consumers, producers and admin clients."""
    shared: dict[str, Any] = {
        "bootstrap_servers": config.bootstrap,
        "client_id": "tipstream",
        "request_timeout_ms": REQUEST_TIMEOUT_MS,
        "metadata_max_age_ms": 30_000,
        "security_protocol": config.protocol,
    }
    if config.protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=None if config.cafile is None else str(config.cafile))
        if config.certfile is not None and config.keyfile is not None:
            context.load_cert_chain(config.certfile, config.keyfile)
        shared["ssl_context"] = context
    if config.protocol.startswith("SASL") and config.password is not None:
        shared["sasl_mechanism"] = config.mechanism
        shared["sasl_plain_username"] = config.username
        shared["sasl_plain_password"] = config.password.reveal()
    return shared
