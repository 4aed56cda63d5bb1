"""A circuit breaker: stops asking a model that fails, and tries it again now and then.

    closed      asked for every batch
    open        not asked until `wait` is over
    half-open   tried, away from the path to the score: good trials close it, a bad one opens it for twice as long

Times are seconds of the caller's clock.
"""

from __future__ import annotations

from typing import Literal

State = Literal["closed", "open", "half-open"]

_FAILURES = 3.0
_FORGIVEN = 1 / 20  # of a failure, by each good answer: whoever fails more often than that opens it at last
_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0


class Breaker:
    """Of one model."""

    def __init__(
        self, *, failures: float = _FAILURES, wait_s: float = _WAIT_S, longest_wait_s: float = _LONGEST_WAIT_S
    ) -> None:
        """Open after `failures`, of which good answers between them take some back.

        For `wait_s` at first, and at last for `longest_wait_s`.
        """
        self.state: State = "closed"
        self._allowed = failures
        self._failed = 0.0
        self._wait_s = self._first_wait_s = wait_s
        self._longest_wait_s = longest_wait_s
        self._until = 0.0

    def tries(self, now: float) -> bool:
        """Whether a batch may be tried on the model although the breaker is not closed."""
        if self.state == "open" and now >= self._until:
            self.state = "half-open"
        return self.state == "half-open"

    def succeeded(self) -> None:
        """Note a good answer."""
        self._failed = max(0.0, self._failed - _FORGIVEN)
        if self.state == "half-open":
            self.state = "closed"
            self._failed = 0.0  # late news of batches from before may have been counted
            self._wait_s = self._first_wait_s

    def failed(self, now: float) -> None:
        """Note an answer that did not come or was no good."""
        self._failed += 1
        if self.state == "half-open" or self._failed >= self._allowed:
            self.trip(now)

    def trip(self, now: float) -> None:
        """Open at once; a trial that failed doubles the wait."""
        if self.state == "open":
            return
        if self.state == "half-open":
            self._wait_s = min(2 * self._wait_s, self._longest_wait_s)
        self.state = "open"
        self._failed = 0.0
        self._until = now + self._wait_s
