"""Which rooms to ask for what other partitions saw of them."""

from __future__ import annotations

from typing import Final

TURNS: Final = 10
"""Parts of a round: rooms of one part are asked for together, and each part has a watch of its own."""

_EARNED: Final = 4
_MOST: Final = 8


def turn_of(room_id: str) -> int:
    """Which part of a round is a room's, in this process."""
    return hash(room_id) % TURNS


class RoomWatch:
    """Rooms of which enough is known in this round, and those worth asking for when the next one begins.

    A room that has events in a round is asked for in the next four, or in up to eight once it had events in several;
    one that comes after a pause, with its event. So whatever is known is of this round, a busy room is asked for once a
    round whatever its events, and nobody asks more than five times an event.
    """

    def __init__(self) -> None:
        self._asked: set[str] = set()  # in this round
        self._seen: set[str] = set()  # in this round
        self._rounds: dict[str, int] = {}  # that a room will still be asked for

    def needs(self, room_id: str) -> bool:
        """Whether a room has yet to be asked for in this round; whoever hears so is to do it: it counts as asked."""
        if room_id in self._asked:
            return False
        self._asked.add(room_id)
        return True

    def saw(self, room_id: str) -> None:
        """Note an event in a room."""
        self._seen.add(room_id)

    def next_round(self) -> list[str]:
        """Begin a round; return the rooms to ask for now."""
        for room_id in self._seen:
            self._rounds[room_id] = min(self._rounds.get(room_id, 0) + _EARNED, _MOST)
        self._seen.clear()
        asked = list(self._rounds)
        for room_id in asked:
            self._rounds[room_id] -= 1
            if not self._rounds[room_id]:
                del self._rounds[room_id]
        self._asked = set(asked)
        return asked

    def skip(self) -> None:
        """Begin a round in which nothing was asked for."""
        self._asked.clear()
