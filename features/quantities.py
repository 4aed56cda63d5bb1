"""The integers that the kernel works out for each event, by name and position; the catalogue makes features of them.

Ages are in ms, -1 = never. Positions are stable within a process only: the fingerprint covers their order.
"""

from typing import Final

from features.rows import KINDS, LONG_KINDS, ROOM_KINDS

SHORT_WINDOWS: Final = ("10s", "1m", "5m", "1h")
LONG_WINDOWS: Final = ("24h", "7d", "60d")
PAIR_WINDOWS: Final = ("1h", *LONG_WINDOWS)
# Shares of recent visits: the weight of a visit is the fraction's power of how many came after it.
RECENT: Final = {"recent4": (3, 4), "recent12": (11, 12)}

_names: list[str] = []


def _block(*names: str) -> int:
    """Append a block of quantities; return where it starts."""
    _names.extend(names)
    return len(_names) - len(names)


def _windows(entity: str, windows: tuple[str, ...], kinds: tuple[str, ...]) -> int:
    return _block(*(f"{entity}.{window}.{kind}" for window in windows for kind in (*kinds, "minor")))


def _visits(entity: str) -> int:
    """Weights of the recent visits with a tip and of all of them, by fraction; visits since the last one with a tip."""
    weights = (f"{entity}.{kind}.{name}" for name in RECENT for kind in ("visits_tipped", "visits"))
    return _block(*weights, f"{entity}.visits_since_tip")


VIEWER_SHORT: Final = _windows("viewer", SHORT_WINDOWS, KINDS)
VIEWER_LONG: Final = _windows("viewer", LONG_WINDOWS, LONG_KINDS)
VIEWER_TOTAL: Final = _windows("viewer", ("total",), KINDS)
VIEWER_AGE: Final = _block(*(f"viewer.age.{kind}" for kind in KINDS), "viewer.age.first")
VIEWER_REST: Final = _block("viewer.streamers", "viewer.visits_tipped")
VIEWER_VISITS: Final = _visits("viewer")

PAIR_COUNTS: Final = _windows("pair", PAIR_WINDOWS, LONG_KINDS)
PAIR_TOTAL: Final = _windows("pair", ("total",), LONG_KINDS)
PAIR_AGE: Final = _block(*(f"pair.age.{kind}" for kind in LONG_KINDS), "pair.age.first")
PAIR_REST: Final = _block("pair.visits_tipped")
PAIR_VISITS: Final = _visits("pair")
VISIT: Final = _windows("pair", ("visit",), KINDS)
VISIT_AGE: Final = _block("pair.visit.age.start", "pair.visit.age.tip")

ROOM_SHORT: Final = _windows("room", SHORT_WINDOWS, ROOM_KINDS)
ROOM_TOTAL: Final = _windows("room", ("total",), ROOM_KINDS)
ROOM_AGE: Final = _block("room.age.first", "room.age.tip", "room.age.raid")
ROOM_REST: Final = _block("room.raid_size", "room.online")

EVENT: Final = _block(
    "event.type", "event.badges", "event.minor", "event.text_len", "event.count", "event.fan_level", "event.watch_ms",
    "event.months", "event.quarter",
)  # fmt: skip

QUANTITIES: Final[tuple[str, ...]] = tuple(_names)
