"""Memory for batches: page-locked on the host and on the device, laid out alike, allocated once."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Final, Self

import numpy as np
from cuda.bindings import runtime as rt
from numpy.typing import NDArray

from engines.tensorrt.cuda import check

#: TensorRT wants addresses that are multiples of this.
ALIGNMENT: Final = 256


class Arena:
    """Named float32 arrays near each other, on the host and on the device: a single copy moves them all.

    `host` holds the arrays by name; they show page-locked memory. `address` gives each one's device address.
    """

    def __init__(self, host: Mapping[str, NDArray[np.float32]]) -> None:
        """Allocate the device's side, zeroed, so that rows never written are finite; raises CudaError.

        The arrays are contiguous, and multiples of `ALIGNMENT` apart. What lies between them is copied with them.
        """
        self.host = dict(host)
        begins = {name: array.ctypes.data for name, array in host.items()}
        self._host_address = min(begins.values())
        self._allocated = False
        self.nbytes = max(begins[name] + array.nbytes for name, array in host.items()) - self._host_address
        self.device_address = int(check("cudaMalloc", rt.cudaMalloc(self.nbytes)))
        check("cudaMemset", rt.cudaMemset(self.device_address, 0, self.nbytes))
        self.address = {name: self.device_address + begin - self._host_address for name, begin in begins.items()}

    @classmethod
    def allocate(cls, shapes: Mapping[str, tuple[int, ...]]) -> Self:
        """Allocate the host's side too, zeroed: arrays of these shapes, one after the other; raises CudaError."""
        offsets: dict[str, int] = {}
        end = 0
        for name, shape in shapes.items():
            offsets[name] = -(-end // ALIGNMENT) * ALIGNMENT
            end = offsets[name] + 4 * int(np.prod(shape))
        address = int(check("cudaHostAlloc", rt.cudaHostAlloc(end, rt.cudaHostAllocPortable)))
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * end).from_address(address))
        memory[:] = 0
        made = cls(
            {
                name: memory[offsets[name] : offsets[name] + 4 * int(np.prod(shape))].view(np.float32).reshape(shape)
                for name, shape in shapes.items()
            }
        )
        made._allocated = True
        return made

    def upload(self, stream: int) -> None:
        """Queue the copy of everything from host to device."""
        check(
            "cudaMemcpyAsync",
            rt.cudaMemcpyAsync(
                self.device_address,
                self._host_address,
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
                self._host_address,
                self.device_address,
                self.nbytes,
                rt.cudaMemcpyKind.cudaMemcpyDeviceToHost,
                stream,
            ),
        )

    def close(self) -> None:
        """Free what was allocated; nothing may use the arrays afterwards."""
        self.host = {}
        if self.nbytes:
            rt.cudaFree(self.device_address)
            if self._allocated:
                rt.cudaFreeHost(self._host_address)
            self.nbytes = 0
