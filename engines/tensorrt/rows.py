"""Rows in page-locked memory of somebody else, and the device memory of an arena that they are copied to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from cuda.bindings import runtime as rt
from numpy.typing import NDArray

from engines.tensorrt.cuda import check


class Rows:
    """Named float32 arrays that lie anywhere, each copied by itself; to a `Slot`, what an `Arena` for inputs is."""

    def __init__(self, host: Mapping[str, NDArray[np.float32]], address: Mapping[str, int]) -> None:
        """Of an array and a device address for each name. Each row of an array is contiguous; rows may lie apart."""
        self.host = dict(host)
        self.address = dict(address)

    def upload(self, stream: int) -> None:
        """Queue the copy of every array from host to device, its rows close together there; raises CudaError."""
        up = rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        for name, array in self.host.items():
            to, begin = self.address[name], array.ctypes.data
            if array.flags.c_contiguous:
                check("cudaMemcpyAsync", rt.cudaMemcpyAsync(to, begin, array.nbytes, up, stream))
            else:  # of each row only the first events
                row, apart = array[0].nbytes, array.strides[0]
                check("cudaMemcpy2DAsync", rt.cudaMemcpy2DAsync(to, row, begin, apart, row, len(array), up, stream))

    def close(self) -> None:
        """Let go of the arrays."""
        self.host = {}
