"""Memory for batches: page-locked on the host and on the device, laid out alike, allocated once."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Final

import numpy as np
from cuda.bindings import runtime as rt
from numpy.typing import NDArray

from engines.tensorrt.cuda import check

#: TensorRT wants addresses that are multiples of this.
ALIGNMENT: Final = 256


class Arena:
    """Named float32 arrays, one after the other, on the host and on the device: a single copy moves them all.

    `host` holds the arrays by name; they show the page-locked memory itself. `address` gives each one's device address.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Allocate both sides, zeroed, so that rows never written are finite."""
        offsets: dict[str, int] = {}
        end = 0
        for name, shape in shapes.items():
            offsets[name] = -(-end // ALIGNMENT) * ALIGNMENT
            end = offsets[name] + 4 * int(np.prod(shape))
        self.nbytes = end
        self.host_address = int(check("cudaHostAlloc", rt.cudaHostAlloc(end, rt.cudaHostAllocPortable)))
        self.device_address = int(check("cudaMalloc", rt.cudaMalloc(end)))
        check("cudaMemset", rt.cudaMemset(self.device_address, 0, end))
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * end).from_address(self.host_address))
        memory[:] = 0
        self.address = {name: self.device_address + offset for name, offset in offsets.items()}
        self.host: dict[str, NDArray[np.float32]] = {
            name: memory[offsets[name] : offsets[name] + 4 * int(np.prod(shape))].view(np.float32).reshape(shape)
            for name, shape in shapes.items()
        }

    def upload(self, stream: int) -> None:
        """Queue the copy of everything from host to device."""
        check(
            "cudaMemcpyAsync",
            rt.cudaMemcpyAsync(
                self.device_address,
                self.host_address,
                self.nbytes,
                rt.cudaMemcpyKind.cudaMemcpyHostToDevice,
                stream,
            ),
        )

    def download(self, stream: int) -> None:
        """Queue the copy of everything from device to host."""
        check(
            "cudaMemcpyAsync",
            rt.cudaMemcpyAsync(
                self.host_address,
                self.device_address,
                self.nbytes,
                rt.cudaMemcpyKind.cudaMemcpyDeviceToHost,
                stream,
            ),
        )

    def close(self) -> None:
        """Free both sides; nothing may use the arrays afterwards."""
        self.host = {}
        if self.nbytes:
            rt.cudaFree(self.device_address)
            rt.cudaFreeHost(self.host_address)
            self.nbytes = 0
