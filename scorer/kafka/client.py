"""What every Kafka client of the service is built with."""

from typing import Any

from scorer.config import Kafka
from scorer.kafka import tls

# A JoinGroup waits for the whole group, so a request may last as long as a rebalance; but one broker that does not
# answer holds up every new connection for as long (aiokafka opens them one at a time). Hence: just above.
REBALANCE_TIMEOUT_MS = 5_000
REQUEST_TIMEOUT_MS = 8_000


def options(config: Kafka) -> dict[str, Any]:
    """Keyword arguments shared by consumers, producers and admin clients. Raises ConfigError for a useless file."""
    shared: dict[str, Any] = {
        "bootstrap_servers": config.bootstrap,
        "client_id": "tipstream",
        "request_timeout_ms": REQUEST_TIMEOUT_MS,
        "metadata_max_age_ms": 30_000,
        "security_protocol": config.protocol,
    }
    if config.protocol.endswith("SSL"):
        shared["ssl_context"] = tls.Context.of(config)
    if config.protocol.startswith("SASL") and config.password is not None:
        shared["sasl_mechanism"] = config.mechanism
        shared["sasl_plain_username"] = config.username
        shared["sasl_plain_password"] = config.password.reveal()
    return shared
