"""A broker in this process: librdkafka's mock cluster, found in confluent-kafka's wheel and driven through ctypes.

It speaks Kafka's protocol on ports of 127.0.0.1 that it picks itself, keeps everything in memory, and is meant for a
demo and for quick tests. What it cannot do: consumer groups of more than one member, creating topics or anything else
of the admin protocol, TLS and SASL, more than the last 5 MiB of a partition. Its fetches do not wake when data arrives
but sleep the client's whole `fetch_max_wait_ms`: keep that at 5 ms or below, or latency is fiction.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["MockCluster", "MockError"]

PRODUCER: Final = 0  # rd_kafka_type_t: the mock cluster hangs on a client handle, either kind will do
REPLICAS: Final = 1


class MockError(RuntimeError):
    """The embedded broker cannot run; the message says why and what to do."""


class MockCluster:
    """Brokers on 127.0.0.1 with the given topics, alive until `close()`."""

    def __init__(self, topics: Mapping[str, int], *, brokers: int = 1) -> None:
        """Start at once; `topics` is name -> partition count. MockError when the library or a topic is refused."""
        self._library = library()
        error = ctypes.create_string_buffer(512)
        settings = self._library.rd_kafka_conf_new()
        self._library.rd_kafka_conf_set(settings, b"log_level", b"2", error, len(error))
        self._client = self._library.rd_kafka_new(PRODUCER, settings, error, len(error))
        if not self._client:
            raise MockError(f"librdkafka refused to start: {error.value.decode()}")
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, brokers)
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        for topic, partitions in topics.items():
            name = topic.encode()
            if partitions < 1 or self._library.rd_kafka_mock_topic_create(self._cluster, name, partitions, REPLICAS):
                self.close()
                raise MockError(f"The embedded broker refused topic {topic!r} with {partitions} partitions.")
        self.bootstrap: str = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def close(self) -> None:
        """Close every connection and forget everything. Harmless when repeated."""
        if self._client:
            self._library.rd_kafka_mock_cluster_destroy(self._cluster)
            self._library.rd_kafka_destroy(self._client)
            self._client = None


@functools.cache
def library() -> ctypes.CDLL:
    """Load librdkafka with the signatures used here; MockError when confluent-kafka's wheel is not the bundled kind."""
    found = ctypes.CDLL(str(shared_object()))
    text, number, pointer = ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p
    for name, result, arguments in (
        ("rd_kafka_conf_new", pointer, ()),
        ("rd_kafka_conf_set", number, (pointer, text, text, text, ctypes.c_size_t)),
        ("rd_kafka_new", pointer, (number, pointer, text, ctypes.c_size_t)),
        ("rd_kafka_destroy", None, (pointer,)),
        ("rd_kafka_mock_cluster_new", pointer, (pointer, number)),
        ("rd_kafka_mock_cluster_destroy", None, (pointer,)),
        ("rd_kafka_mock_cluster_bootstraps", text, (pointer,)),
        ("rd_kafka_mock_topic_create", number, (pointer, text, number, number)),
        ("rd_kafka_mock_group_initial_rebalance_delay_ms", None, (pointer, ctypes.c_int32)),
    ):
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def shared_object() -> Path:
    """Where the wheel keeps librdkafka: beside the package on Linux, inside it on macOS."""
    package = importlib.util.find_spec("confluent_kafka")
    for folder in map(Path, (package and package.submodule_search_locations) or ()):
        for pattern in ("../confluent_kafka.libs/librdkafka-*.so*", ".dylibs/librdkafka*.dylib"):
            for path in sorted(folder.glob(pattern)):
                return path.resolve()
    raise MockError("No librdkafka here: `pip install --only-binary :all: confluent-kafka` brings it with its wheel.")
