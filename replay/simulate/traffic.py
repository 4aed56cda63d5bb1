"""What traffic to simulate."""

import math
from typing import Final

import msgspec

from replay.simulate import behaviour

MAX_VIEWERS: Final = 50_000_000
_WATCHING_PER_ROOM: Final = 100


class TrafficError(ValueError):
    """A setting that no traffic can have."""


class Traffic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of a simulation: equal settings give equal traffic, to the byte, on every machine of one NumPy."""

    seed: int = 1
    rate: float = 1000.0
    """Events per second of traffic time, averaged over the run."""
    duration_s: float = 3600.0
    viewers: int = 0
    """People who may come; 0 means ten for each one who is watching at a time."""
    rooms: int = 0
    """Streamers, about two thirds of whom are live at a time; 0 means one for every 100 watching, at least 8."""
    start_ms: int = 1_735_743_600_000
    """When the traffic starts, Unix time in ms: 2025-01-01 15:00 UTC."""
    heartbeat_s: float = 20.0
    """How often a player reports that its viewer still watches."""
    late_share: float = 0.03
    """Share of events that arrive after others that happened later."""
    duplicate_share: float = 0.01
    """Share of events that arrive a second time."""
    diurnal: float = 10.0
    """Evening peak over night trough; 1 switches the curve off."""
    room_skew: float = 0.9
    """Exponent of the rooms' Zipf popularity."""
    viewer_skew: float = 0.9
    """Exponent of the viewers' Zipf activity."""
    tips: float = 1.0
    """Multiplies how often viewers tip."""
    truth: bool = False
    """Whether to tell, with each event, the true chance of a tip: see `hazard.chance`."""

    def __post_init__(self) -> None:
        """Refuse what cannot be; raises TrafficError."""
        positive = ("rate", "duration_s", "heartbeat_s", "diurnal", "tips")
        for name in positive:
            if not 0 < getattr(self, name) < math.inf:
                raise TrafficError(f"{name} is {getattr(self, name)}: it must be above zero, and a number.")
        for name in ("late_share", "duplicate_share"):
            if not 0 <= getattr(self, name) <= 0.5:
                raise TrafficError(f"{name} is {getattr(self, name)}: a share is between 0 and 0.5.")
        for name in ("viewers", "rooms", "seed", "room_skew", "viewer_skew"):
            if getattr(self, name) < 0:
                raise TrafficError(f"{name} is {getattr(self, name)}: it cannot be negative.")
        if self.start_ms < 0:
            raise TrafficError("The traffic starts before 1970, and no event may: name a later time with --start.")
        if self.diurnal < 1:
            raise TrafficError(f"diurnal is {self.diurnal}: it is peak over trough, 1 or more.")
        if self.heartbeat_s < 2:
            raise TrafficError(f"heartbeat_s is {self.heartbeat_s}: at least 2 seconds between heartbeats.")
        if self.watching <= 0:
            raise TrafficError(
                f"The audience figures of {self.rooms:,} rooms alone make {self.rooms * behaviour.STATS_RATE:,.0f} "
                f"events per second, and rate is {self.rate}: raise it, or lower rooms."
            )
        if self.population > MAX_VIEWERS:
            raise TrafficError(
                f"This traffic has {self.population:,} viewers, and each takes about 60 bytes: at most "
                f"{MAX_VIEWERS:,}. Lower the rate or set viewers."
            )

    @property
    def watching(self) -> float:
        """Viewers who watch at a time, on average, so that the rate comes out."""
        once = self.rate / (1 + self.duplicate_share)
        per_viewer = behaviour.events_per_viewer_second(self.heartbeat_s)
        if self.rooms:
            return (once - self.rooms * behaviour.STATS_RATE) / per_viewer
        return once / (per_viewer + behaviour.STATS_RATE / _WATCHING_PER_ROOM)

    @property
    def population(self) -> int:
        """How many viewers there are."""
        return self.viewers or max(100, int(10 * self.watching))

    @property
    def streamers(self) -> int:
        """How many streamers there are."""
        return self.rooms or max(8, int(self.watching / _WATCHING_PER_ROOM))
