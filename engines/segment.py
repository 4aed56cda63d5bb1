"""Memory that two processes share: a few places, each for one batch's rows and for its scores."""

from __future__ import annotations

import mmap
import os
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engines.manifest import Manifest

#: Of every array, and so from one to the other: what a GPU is given wants it where it mirrors them.
_ALIGNMENT: Final = 256


class Place(NamedTuple):
    """Room for one batch of up to B rows; all arrays are float32."""

    features: NDArray[np.float32]
    """(B, F)"""
    history: NDArray[np.float32]
    """(B, L, C)"""
    p_tip: NDArray[np.float32]
    """(B, H)"""
    value: NDArray[np.float32]
    """(B,)"""


class Segment:
    """The places. It has no name: whoever is given `fd` may map it, and it goes when nobody does any more."""

    def __init__(self, manifest: Manifest, most_rows: int, places: int, fd: int | None = None) -> None:
        """Make a new one, or map the one behind `fd`, which is ours to close from now on, whatever happens. Linux only.

        Raises OSError or ValueError if there is not so much memory, or not so much behind `fd`.
        """
        shapes = (
            (most_rows, manifest.n_features),
            (most_rows, *manifest.history),
            (most_rows, len(manifest.horizons_s)),
            (most_rows,),
        )
        sizes = [-(-4 * int(np.prod(shape)) // _ALIGNMENT) * _ALIGNMENT for shape in shapes]
        self.nbytes = places * sum(sizes)
        self.fd = os.memfd_create("tipstream") if fd is None else fd
        try:
            if fd is None:
                os.ftruncate(self.fd, self.nbytes)
            memory = mmap.mmap(self.fd, self.nbytes)
        except BaseException:
            os.close(self.fd)
            raise
        self.places = [
            Place(
                *(
                    np.ndarray(shape, np.float32, memory, at * sum(sizes) + sum(sizes[:i]))
                    for i, shape in enumerate(shapes)
                )
            )
            for at in range(places)
        ]

    def close(self) -> None:
        """Let go of it; the memory is unmapped with the last array that shows it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self.places = []
