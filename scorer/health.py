"""How the service is: written by its event loop, read by the threads that answer probes.

`/healthz` asks whether the process should be restarted: its event loop has stopped turning.
`/readyz` asks whether it does its work now: not while it starts or drains, nor while a partition has stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from threading import Lock
from typing import Final, Literal

from scorer.metrics import CONTENT_TYPE, Metrics
from scorer.web import Page, Routes, verdict

Phase = Literal["starting", "ready", "draining", "stopped"]

PATIENCE_S: Final = 10.0  # as long as a Kafka session: after that the group has given the partitions away anyhow


class Health:
    """The service's condition. Every method may be called from any thread.

    `clock` counts seconds and never steps back. The loop is only missed once it has ticked, so that a slow start
    (compiling the kernel, loading the model) is not taken for a hang.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, patience_s: float = PATIENCE_S) -> None:
        self._clock = clock
        self._patience_s = patience_s
        self._lock = Lock()
        self._phase: Phase = "starting"
        self._detail = "the service has just begun"
        self._last_tick: float | None = None
        self._stopped: dict[int, str] = {}
        self._waiting: dict[str, str] = {}

    def tick(self) -> None:
        """Say that the event loop turns; to be called about once a second or more often."""
        self._last_tick = self._clock()

    def enter(self, phase: Phase, detail: str = "") -> None:
        """Move to a phase; `detail` is what a person should know about it."""
        with self._lock:
            self._phase, self._detail = phase, detail

    def stop_partition(self, partition: int, reason: str) -> None:
        """Say that a partition of ours is not read any more, and why."""
        with self._lock:
            self._stopped[partition] = reason

    def clear_partition(self, partition: int) -> None:
        """Say that a partition is read again, or is no longer ours."""
        with self._lock:
            self._stopped.pop(partition, None)

    def wait_for(self, what: str, reason: str) -> None:
        """Say that work stands still until `what` (Redis, Kafka) is back."""
        with self._lock:
            self._waiting[what] = reason

    def resume(self, what: str) -> None:
        """Say that `what` is back."""
        with self._lock:
            self._waiting.pop(what, None)

    @property
    def waits(self) -> bool:
        """Whether work stands still until something is back."""
        return bool(self._waiting)

    def against_life(self) -> list[str]:
        """Return why the process should be restarted; empty if it should not."""
        last = self._last_tick
        if last is None or (silent := self._clock() - last) <= self._patience_s:
            return []
        return [f"The event loop has not turned for {silent:.0f} s (allowed: {self._patience_s:.0f} s)."]

    def against_readiness(self) -> list[str]:
        """Return why the service does not do its work now; empty if it does."""
        reasons = self.against_life()
        with self._lock:
            if self._phase != "ready":
                reasons.append(f"The service is {self._phase}" + (f": {self._detail}." if self._detail else "."))
            reasons += [f"{what} is waited for: {reason}" for what, reason in sorted(self._waiting.items())]
            reasons += [f"Partition {number} stopped: {why}" for number, why in sorted(self._stopped.items())]
        return reasons

    def pages(self, metrics: Metrics) -> Routes:
        """Return the pages that a `WebServer` serves."""
        return {
            "/healthz": lambda: verdict(self.against_life()),
            "/readyz": lambda: verdict(self.against_readiness(), phase=self._phase),
            "/metrics": lambda: Page(HTTPStatus.OK, CONTENT_TYPE, metrics.render()),
        }
