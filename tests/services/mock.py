"""The embedded broker, made to refuse requests and to move its leaders: several brokers without several machines."""

from __future__ import annotations

import ctypes
from typing import Final

from scorer.embedded.kafka import REPLICAS, MockCluster

PRODUCE: Final = 0
FETCH: Final = 1
OFFSET_COMMIT: Final = 8
HEARTBEAT: Final = 12

HANG_UP: Final = -195
"""Instead of an error code: the connection is closed and nothing answered."""


class FaultyCluster(MockCluster):
    """Brokers numbered from 1; topics may be made while it runs."""

    def __init__(self, brokers: int) -> None:
        """Start without topics."""
        super().__init__({}, brokers=brokers)
        number, pointer, text = ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p
        fail = self._library.rd_kafka_mock_push_request_errors_array
        fail.restype, fail.argtypes = None, (pointer, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(number))
        lead = self._library.rd_kafka_mock_partition_set_leader
        lead.restype, lead.argtypes = number, (pointer, text, ctypes.c_int32, ctypes.c_int32)

    def create(self, topic: str, partitions: int) -> None:
        """Make a topic."""
        assert not self._library.rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, REPLICAS)

    def fail(self, api: int, *errors: int) -> None:
        """Answer the next requests of a kind, whoever sends them, with these error codes, one each."""
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, api, len(errors), (ctypes.c_int * len(errors))(*errors)
        )

    def lead(self, topic: str, partition: int, broker: int) -> None:
        """Have another broker lead a partition, from now on."""
        assert not self._library.rd_kafka_mock_partition_set_leader(self._cluster, topic.encode(), partition, broker)
