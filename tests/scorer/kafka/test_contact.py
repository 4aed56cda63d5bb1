"""A reason is told once silence lasts, asked for now and then, and forgotten when Kafka is back."""

from __future__ import annotations

from scorer.kafka.contact import Contact
from scorer.kafka.refusal import Refusal


class Brokers:
    """Gives another reason each time that it is asked."""

    asked = 0
    now = 100.0

    async def why(self) -> Refusal:
        self.asked += 1
        return Refusal(f"reason {self.asked}", False)


async def test_a_moment_is_no_outage_and_a_reason_is_not_asked_for_every_second() -> None:
    brokers = Brokers()
    contact = Contact(brokers.why, lambda: brokers.now)
    told = []
    for _ in range(16):
        told.append(await contact.lost(True))
        brokers.now += 1
    assert told == [None, None, *["reason 1"] * 10, *["reason 2"] * 4]
    assert await contact.lost(False) is None
    assert await contact.lost(True) is None
    assert brokers.asked == 2
