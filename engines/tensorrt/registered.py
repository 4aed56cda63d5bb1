"""A segment that the GPU reads and writes where it lies."""

from __future__ import annotations

from collections.abc import Iterator

from cuda.bindings import runtime as rt

from engines.segment import Segment
from engines.tensorrt.cuda import check
from engines.tensorrt.slot import Slot


class Registered:
    """A segment, and the slots that run in its places, each with a graph for its bucket and history length."""

    def __init__(self, segment: Segment) -> None:
        """Take note of it; its places are to stay until `close`."""
        self.segment = segment
        self.slots: dict[tuple[int, Slot], Slot] = {}
        """By place, and by the slot to which rows are copied where there is none here."""
        self.steps: Iterator[bool] = iter(())  # that are left until every slot is there
        self._locked = 0

    def lock(self) -> None:
        """Lock its pages in memory, so that the GPU may use them; raises CudaError."""
        address = self.segment.places[0].features.ctypes.data
        check("cudaHostRegister", rt.cudaHostRegister(address, self.segment.nbytes, 0))
        self._locked = address

    def close(self) -> None:
        """Free the slots, and then the pages; nothing may be in flight."""
        self.steps = iter(())
        for slot in self.slots.values():
            slot.close()
        self.slots = {}
        if self._locked:
            rt.cudaHostUnregister(self._locked)
            self._locked = 0
