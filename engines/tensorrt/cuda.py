"""CUDA calls with their errors in words, and what is known of the device."""

from __future__ import annotations

import os
from typing import Any, Final

from cuda.bindings import runtime as rt

from engines.model import ModelError
from engines.tensorrt.plan import Gpu

SUCCESS: Final = rt.cudaError_t.cudaSuccess
_DEVICE: Final = 0
#: After these the process's CUDA context is dead: no call works until a new process starts.
_STICKY: Final = frozenset(
    {
        rt.cudaError_t.cudaErrorIllegalAddress,
        rt.cudaError_t.cudaErrorLaunchTimeout,
        rt.cudaError_t.cudaErrorAssert,
        rt.cudaError_t.cudaErrorHardwareStackError,
        rt.cudaError_t.cudaErrorIllegalInstruction,
        rt.cudaError_t.cudaErrorMisalignedAddress,
        rt.cudaError_t.cudaErrorInvalidAddressSpace,
        rt.cudaError_t.cudaErrorInvalidPc,
        rt.cudaError_t.cudaErrorLaunchFailure,
        rt.cudaError_t.cudaErrorECCUncorrectable,
        rt.cudaError_t.cudaErrorNvlinkUncorrectable,
        rt.cudaError_t.cudaErrorDevicesUnavailable,
        rt.cudaError_t.cudaErrorUnknown,
    }
)


class CudaError(ModelError):
    """A CUDA call failed. `sticky`: the process's context is dead, and only a new process helps."""

    def __init__(self, call: str, code: rt.cudaError_t) -> None:
        """Put the code into words."""
        name, text = rt.cudaGetErrorName(code)[1], rt.cudaGetErrorString(code)[1]
        self.sticky = code in _STICKY
        super().__init__(f"{call} failed: {text.decode()} ({name.decode()}).")


def check(call: str, outcome: tuple[Any, ...]) -> Any:
    """Return what a CUDA call gave, without its status; raises CudaError."""
    if outcome[0] != SUCCESS:
        rt.cudaGetLastError()  # else it would be blamed on the next call
        raise CudaError(call, outcome[0])
    return outcome[1] if len(outcome) == 2 else outcome[1:]


def choose(device: str) -> None:
    """Use one GPU or MIG instance, by number or UUID, in this process; before the first CUDA call of the process.

    NVIDIA's driver reads the variables when it is first used, and then shows this device alone, as number 0. Numbers
    are those of nvidia-smi.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    if device:
        os.environ["CUDA_VISIBLE_DEVICES"] = device


def open_device() -> Gpu:
    """Make the chosen device this thread's, and say what it is; raises ModelError where there is none."""
    status, count = rt.cudaGetDeviceCount()
    if status != SUCCESS or not count:
        name, text = rt.cudaGetErrorName(status)[1], rt.cudaGetErrorString(status)[1]
        reason = f"{text.decode()}, {name.decode()}" if status != SUCCESS else "the driver shows none"
        raise ModelError(
            f"There is no NVIDIA GPU that can be used here ({reason}). Run this on a machine with a GPU and NVIDIA's "
            "driver 525 or newer, check CUDA_VISIBLE_DEVICES, or serve the model on the CPU."
        )
    check("cudaSetDevice", rt.cudaSetDevice(_DEVICE))
    found = check("cudaGetDeviceProperties", rt.cudaGetDeviceProperties(_DEVICE))
    return Gpu(
        name=found.name.decode().rstrip("\0"),
        capability=f"{found.major}.{found.minor}",
        multiprocessors=found.multiProcessorCount,
        memory_gib=round(found.totalGlobalMem / 2**30),
        l2_mib=round(found.l2CacheSize / 2**20),
    )


def driver() -> str:
    """Return the newest CUDA version that the driver speaks, for example 13.0."""
    version = int(check("cudaDriverGetVersion", rt.cudaDriverGetVersion()))
    return f"{version // 1000}.{version % 1000 // 10}"


class Stream:
    """A stream of the highest priority that no legacy work waits for."""

    def __init__(self) -> None:
        """Create it on this thread's device."""
        _, greatest = check("cudaDeviceGetStreamPriorityRange", rt.cudaDeviceGetStreamPriorityRange())
        handle = check(
            "cudaStreamCreateWithPriority", rt.cudaStreamCreateWithPriority(rt.cudaStreamNonBlocking, greatest)
        )
        self.handle = int(handle)

    def synchronize(self) -> None:
        """Wait until everything given to it is done."""
        check("cudaStreamSynchronize", rt.cudaStreamSynchronize(self.handle))

    def close(self) -> None:
        """Destroy it; errors of a dead context are of no use here."""
        if self.handle:
            rt.cudaStreamDestroy(self.handle)
            self.handle = 0
