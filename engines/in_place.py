"""Models that score rows where they lie, in memory that the worker who asks can write to."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from engines.model import BadScores, Model
from engines.segment import Segment


@runtime_checkable
class InPlace(Protocol):
    """Reads a batch from a place of a segment and puts its scores there. One thread at a time may call it."""

    @property
    def depth(self) -> int:
        """Batches that may be launched and not yet finished."""

    def register(self, segment: Segment) -> Any:
        """Take a segment in, and return what it is called by from now on."""

    def prepare(self, registered: Any) -> bool:
        """Take one step towards reading a segment's places without a copy; false if there is none left to take.

        A step is short; nothing may be in flight meanwhile. It scribbles over the segment's places, so nobody else may
        use them before the last one. If that never comes, batches in them are scored all the same.
        """

    def launch_at(self, registered: Any, at: int, n: int) -> Any:
        """Start the batch in the first n rows of place `at`, which may not change until it is finished.

        Returns its ticket; raises ModelError.
        """

    def finish(self, ticket: Any) -> None:
        """Wait for the batch launched first; its scores then lie in its place, unchecked. Raises ModelError."""

    def unregister(self, registered: Any) -> None:
        """Let go of a segment, which may go once this returns. None of its batches may be unfinished."""


class OneByOne:
    """Any other model, as `InPlace`: it runs a batch where that is launched."""

    depth = 1

    def __init__(self, model: Model) -> None:
        self._model = model

    def register(self, segment: Segment) -> Segment:
        """See `InPlace.register`."""
        return segment

    def prepare(self, registered: Segment) -> bool:
        """There is nothing to prepare."""
        return False

    def launch_at(self, registered: Segment, at: int, n: int) -> None:
        """Run the batch; see `InPlace.launch_at`."""
        place = registered.places[at]
        try:
            scores = self._model.infer(place.features[:n], place.history[:n])
        except BadScores as error:
            scores = error.scores  # the worker sees for itself which row is bad
        place.p_tip[:n], place.value[:n] = scores

    def finish(self, ticket: None) -> None:
        """Nothing is left to do."""

    def unregister(self, registered: Segment) -> None:
        """Nothing was kept."""
