import pytest

from scorer.config import Kafka
from scorer.kafka.client import Unreachable, options
from scorer.kafka.sink import Sink
from scorer.layers import Secret


async def test_a_broker_that_is_not_there_is_told_in_words() -> None:
    with pytest.raises(Unreachable, match=r"No broker of 127\.0\.0\.1:1 serves us.*kafka\.bootstrap"):
        await Sink(Kafka(bootstrap="127.0.0.1:1")).start()


def test_tls_checks_the_broker_and_its_name() -> None:
    context = options(Kafka(protocol="SSL"))["ssl_context"]
    assert context.check_hostname


def test_a_password_goes_to_the_client_and_nowhere_else() -> None:
    config = Kafka(protocol="SASL_SSL", username="u", password=Secret("hush"))
    assert options(config)["sasl_plain_password"] == "hush"
    assert "hush" not in repr(config)
