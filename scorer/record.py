"""One record of the input topic, as the pipeline sees it."""

from typing import Protocol


class Record(Protocol):
    """What is used of a Kafka record; aiokafka's ConsumerRecord is one."""

    @property
    def offset(self) -> int:
        """Position in the partition."""
        ...

    @property
    def timestamp(self) -> int:
        """Broker or producer time, milliseconds since 1970 UTC; the clock that deadlines and clamps go by."""
        ...

    @property
    def key(self) -> bytes | None:
        """The viewer's id."""
        ...

    @property
    def value(self) -> bytes | None:
        """The event as JSON."""
        ...
