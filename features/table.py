"""The rows of one kind of entity in memory: an array that grows, free places in it, and who has gone unused longest."""

from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from features.packing import RowBytes
from features.rows import RowVersionError

Owner = TypeVar("Owner")

_FREE: Final = 2**63 - 1  # `touched` of a place without a row: the last to be listed


class Table(Generic[Owner]):
    """Rows by slot. `rows` is replaced when it grows: look it up anew for each batch.

    rows (capacity,) structured; touched (capacity,) int64: sequence of the batch that last changed a row, 0 = unchanged
    since it came; partitions (capacity,) int32: whose rows they are.
    """

    def __init__(self, name: str, dtype: np.dtype[Any], capacity: int) -> None:
        """Growing copies all rows, which takes seconds: ask for more than are expected. Untouched ones cost nothing."""
        self.name = name
        self.rows: NDArray[Any] = np.zeros(capacity, dtype)
        self.touched: NDArray[np.int64] = np.zeros(capacity, np.int64)
        self.partitions: NDArray[np.int32] = np.zeros(capacity, np.int32)
        self.owners: list[Owner | None] = []
        self._free: list[int] = []
        self._oldest: list[tuple[int, int]] = []  # (slot, touched when listed), the oldest last
        self._bytes = RowBytes(name, self.rows)

    def __len__(self) -> int:
        return len(self.owners) - len(self._free)

    def take(self, owner: Owner, partition: int) -> int:
        """Return the slot of a row of zeros."""
        if self._free:
            slot = self._free.pop()
            self.owners[slot] = owner
            self._bytes.lines[slot] = 0
        else:
            slot = len(self.owners)
            if slot == len(self.rows):
                self._grow()
            self.owners.append(owner)
        self.touched[slot] = 0
        self.partitions[slot] = partition
        return slot

    def give_back(self, slot: int) -> None:
        """Forget a row."""
        self.owners[slot] = None
        self.touched[slot] = _FREE
        self._free.append(slot)

    def wipe(self, slot: int) -> None:
        """Make a row zeros."""
        self._bytes.lines[slot] = 0

    def _grow(self) -> None:
        self.rows = _twice(self.rows)
        self.touched = _twice(self.touched)
        self.partitions = _twice(self.partitions)
        self._bytes = RowBytes(self.name, self.rows)

    def oldest(self) -> tuple[Owner, int] | None:
        """Return the owner of the row that has gone unchanged longest, and since which batch; None if there is none."""
        while True:
            while self._oldest:
                slot, touched = self._oldest[-1]
                owner = self.owners[slot]
                if owner is not None and self.touched[slot] == touched:
                    return owner, touched
                self._oldest.pop()
            if not len(self):
                return None
            self._oldest = self._list_oldest()

    def _list_oldest(self) -> list[tuple[int, int]]:
        touched = self.touched[: len(self.owners)]
        share = max(1, len(self) // 64)
        first = np.argpartition(touched, share - 1)[:share]
        first = first[np.argsort(-touched[first], kind="stable")]
        return list(zip(first.tolist(), touched[first].tolist(), strict=True))

    def pack(self, slots: NDArray[np.int32]) -> list[bytes]:
        """Return the rows at these slots as bytes."""
        return self._bytes.pack(slots)

    def unpack(self, slots: Sequence[int], blobs: Sequence[bytes]) -> dict[int, RowVersionError]:
        """Read packed rows into slots whose rows are zero. Returns those that cannot be read, by partition, and why."""
        refused = self._bytes.unpack_readable(slots, blobs)
        return {int(self.partitions[slot]): error for slot, error in refused.items()}


def _twice(array: NDArray[Any]) -> NDArray[Any]:
    """Return a copy with as many zeros behind; they take no memory before they are written to."""
    larger = np.zeros(2 * len(array), array.dtype)
    larger[: len(array)] = array
    return larger
