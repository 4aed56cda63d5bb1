"""Which rooms to ask for what other partitions saw of them."""

from __future__ import annotations

from typing import Final, NamedTuple

_EARNED: Final = 4
_MOST: Final = 8


class Turn(NamedTuple):
    """Some of all rooms, in this process always the same: the `part`-th of `parts`."""

    part: int
    parts: int

    def has(self, room_id: str) -> bool:
        """Whether a room is among them."""
        return hash(room_id) % self.parts == self.part


EVERY_ROOM: Final = Turn(0, 1)


class RoomWatch:
    """Rooms of which enough is known in this round, and those worth asking for when the next one begins.

    A room that has events in a round is asked for in the next four, or in up to eight once it had events in several;
    one that comes after a pause, with its event. So whatever is known is of this round, a busy room is asked for once a
    round whatever its events, and nobody asks more than five times an event.
    """

    def __init__(self) -> None:
        self.asked: set[str] = set()
        """Rooms asked for in this round."""
        self._seen: set[str] = set()  # in this round
        self._rounds: dict[str, int] = {}  # that a room will still be asked for

    def needs(self, room_id: str) -> bool:
        """Whether a room has yet to be asked for in this round; whoever hears so is to do it: it counts as asked."""
        if room_id in self.asked:
            return False
        self.asked.add(room_id)
        return True

    def saw(self, room_id: str) -> None:
        """Note an event in a room."""
        self._seen.add(room_id)

    def next_round(self, turn: Turn = EVERY_ROOM) -> list[str]:
        """Begin a round for the rooms whose turn it is; return those to ask for now."""
        for room_id in [room_id for room_id in self._seen if turn.has(room_id)]:
            self._rounds[room_id] = min(self._rounds.get(room_id, 0) + _EARNED, _MOST)
            self._seen.remove(room_id)
        asked = [room_id for room_id in self._rounds if turn.has(room_id)]
        for room_id in asked:
            self._rounds[room_id] -= 1
            if not self._rounds[room_id]:
                del self._rounds[room_id]
        self.asked = {room_id for room_id in self.asked if not turn.has(room_id)}.union(asked)
        return asked

    def skip(self) -> None:
        """Begin a round in which nothing was asked for."""
        self.asked.clear()
