import pytest

from scorer.config import Kafka
from scorer.kafka.client import options
from scorer.layers import Secret


def test_tls_checks_the_broker_and_its_name() -> None:
    context = options(Kafka(protocol="SSL"))["ssl_context"]
    assert context.check_hostname


def test_a_password_goes_to_the_client_and_nowhere_else() -> None:
    config = Kafka(protocol="SASL_SSL", username="u", password=Secret("hush"))
    assert options(config)["sasl_plain_password"] == "hush"
    assert "hush" not in repr(config)


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SASL_PLAINTEXT"])
def test_without_tls_there_is_no_context(protocol: str) -> None:
    secret = {"username": "u", "password": Secret("hush")} if "SASL" in protocol else {}
    assert "ssl_context" not in options(Kafka(protocol=protocol, **secret))  # type: ignore[arg-type]
