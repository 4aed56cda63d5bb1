"""What the oracle writes down: everything that happened, by viewer, pair and room, with nothing added up."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Fact:
    """Something to add up: n of a kind and its money, at a time."""

    time: int
    kind: str
    n: int
    minor: int = 0


@dataclass
class Gift:
    key: str
    tx: str
    room: str
    visit: int
    minor: int
    time: int
    reversed: bool = False


@dataclass
class Pair:
    number: int
    first: int
    clock: int = 0
    facts: list[Fact] = field(default_factory=list)
    visits: list[list[Fact]] = field(default_factory=list)
    room: str = ""
    visit_start: int = 0
    gifts: list[Gift] = field(default_factory=list)
    tip_times: list[tuple[int, int]] = field(default_factory=list)  # (visit, time)
    event_times: list[int] = field(default_factory=list)
    sub_times: list[int] = field(default_factory=list)
    free_key: str = ""
    visits_tipped: set[int] = field(default_factory=set)


@dataclass
class Past:
    code: int
    time: int
    minor: int
    size: int
    tip: bool
    streamer: str
    visit: int


@dataclass
class Viewer:
    clock: int = 0
    first: int = 0
    ids: list[str] = field(default_factory=list)
    past: list[Past] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    times: dict[str, list[int]] = field(default_factory=dict)
    pairs: dict[str, Pair] = field(default_factory=dict)
    visits: list[tuple[Pair, int]] = field(default_factory=list)


@dataclass
class Room:
    clock: int = 0
    seen: list[int] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    tips: list[int] = field(default_factory=list)
    raids: list[tuple[int, int]] = field(default_factory=list)
    online: list[tuple[int, int]] = field(default_factory=list)
