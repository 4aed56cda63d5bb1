"""Every boundary between two steps of a member's work, at which it may be killed."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from tests.faults.member import Trick


class Point(NamedTuple):
    """Where to die, and how often the place is passed."""

    at: str
    when: Literal["before", "after"]
    often: bool = True
    """Every second or so; else only when partitions are handed out."""
    later: bool = False
    """When they are taken back, that is."""

    def trick(self, nth: int) -> Trick:
        """Die there, at the nth time."""
        return Trick(self.at, "die", self.when, nth)


_SOURCE, _SINK = "scorer.kafka.source:Source", "scorer.kafka.sink:Sink"
_PIPELINE, _LOOP = "scorer.pipeline:Pipeline", "scorer.loop:Loop"
_OWNERSHIP, _STORE = "scorer.ownership:Ownership", "features.redis_store:RedisStore"

POINTS: Final = {
    "after-fetch": Point(f"{_SOURCE}.poll", "after"),
    "before-read": Point(f"{_PIPELINE}.read", "before"),
    "after-read": Point(f"{_PIPELINE}.read", "after"),
    "after-inference": Point(f"{_PIPELINE}.infer", "after"),
    "before-publish": Point(f"{_SINK}.publish", "before"),
    "handed-to-producer": Point(f"{_SINK}._send", "after"),
    "after-publish": Point(f"{_LOOP}._finish", "after"),
    "before-checkpoint": Point(f"{_STORE}.checkpoint", "before"),
    "after-checkpoint": Point(f"{_STORE}.checkpoint", "after"),
    "before-commit": Point(f"{_SOURCE}.commit", "before"),
    "after-commit": Point(f"{_SOURCE}.commit", "after"),
    "before-shares": Point(f"{_STORE}.publish_shares", "before"),
    "after-shares": Point(f"{_STORE}.publish_shares", "after"),
    "before-claim": Point(f"{_STORE}.claim", "before", often=False),
    "after-claim": Point(f"{_STORE}.claim", "after", often=False),
    "before-resume": Point(f"{_SOURCE}.resume", "before", often=False),
    "in-revoke": Point(f"{_OWNERSHIP}.revoked", "before", often=False, later=True),
    "before-drain": Point(f"{_OWNERSHIP}.drain", "before", often=False, later=True),
    "after-drain": Point(f"{_OWNERSHIP}.drain", "after", often=False, later=True),
    "after-revoke": Point(f"{_OWNERSHIP}.revoked", "after", often=False, later=True),
}
