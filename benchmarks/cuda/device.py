"""Devices of the CUDA benchmark: their interface, and two that need no torch.

`DriverMemory` is a GPU by its driver alone: every buffer is a separate allocation, so that compute-sanitizer sees
an access past its end. `Emulated` is the CPU that runs libdualbinary_cuda_emulated, for tests of the benchmark; its
times say nothing about a GPU. The benchmark's GPU is benchmarks/cuda/torch_device.py.
"""

import ctypes
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.common.timing import wall_clock
from dualbinary import DualBinaryError, InputError
from runtime_ext.cuda_capi import describe

__all__ = ["AbsentError", "Buffer", "Contender", "Device", "DriverMemory", "Emulated", "Memory", "Work", "only_device"]

Work = Callable[[], object]
"""Function that enqueues products, one by each weight in turn."""


class AbsentError(DualBinaryError):
    """A contender that cannot run here; the message says why."""


class Buffer(Protocol):
    """Memory of a device."""

    @property
    def address(self) -> int:
        """Its first byte."""
        ...

    def numpy(self) -> npt.NDArray[Any]:
        """Copy the content, after all that was enqueued."""
        ...


class Memory(Protocol):
    """Buffers and the stream that products need."""

    library: Path

    def put(self, array: npt.NDArray[Any]) -> Buffer:
        """Make a buffer with a copy of `array`."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """Make a buffer of any content."""
        ...

    def stream(self) -> int:
        """Return the stream that work is enqueued on, a cudaStream_t."""
        ...


@dataclass(frozen=True)
class Contender:
    """`works` are `replay` (of a captured graph) and `launch` (call by call), or one of both; `products` in each."""

    works: dict[str, Work]
    products: int


class Device(Memory, Protocol):
    """Memory with a clock, graphs, plain reads and peers: all that the benchmark needs."""

    capability: int
    l2_bytes: int

    def facts(self) -> dict[str, Any]:
        """Return what must be equal in two runs that share a file."""
        ...

    def clock(self, work: Work) -> float:
        """Do the work, wait for it, and return its seconds on the device."""
        ...

    def captured(self, work: Work) -> Work | None:
        """Capture the work for a single replay; None where a device cannot."""
        ...

    def reads(self) -> dict[str, tuple[int, Work]]:
        """Return the ways to read a large buffer by name: the bytes that each moves, and its work."""
        ...

    def peer(self, name: str, N: int, K: int, M: int, G: int, count: int) -> Contender:
        """Make a peer with `count` weights. Raises AbsentError."""
        ...

    def release(self) -> None:
        """Free memory that nothing uses any more."""
        ...


def only_device(library: Path) -> dict[str, Any]:
    """Describe the first device that the library sees. Raises InputError if it has no code for it, or sees none."""
    facts = describe(library)
    if not facts["devices"]:
        raise InputError(f"{library} sees no CUDA device ({facts['error']}); this needs an NVIDIA GPU and its driver")
    device = facts["devices"][0]
    capability = device["compute_capability"]
    # Machine code runs on later devices of the same generation only: that of 8.0 on 8.6, but not on 9.0.
    if not any(each // 10 == capability // 10 and each <= capability for each in facts["architectures"]):
        raise InputError(
            f"{library} was built for {facts['architectures']}, {device['name']} has {capability}; "
            f"build it with make cuda CUDA_ARCHITECTURES={capability}"
        )
    return device


def library_hash(library: Path) -> str:
    """Hash a build to sixteen hex digits."""
    return hashlib.sha256(library.read_bytes()).hexdigest()[:16]


class _Host:
    """An array of NumPy."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._array = array
        self.address = array.ctypes.data

    def numpy(self) -> npt.NDArray[Any]:
        return self._array.copy()


class Emulated:
    """The CPU as a device of libdualbinary_cuda_emulated."""

    l2_bytes = 1 << 12  # so small that tiny weights rotate
    _READ_BYTES = 1 << 22

    def __init__(self, library: Path) -> None:
        if not describe(library)["emulated"]:
            raise InputError(f"{library}: expected libdualbinary_cuda_emulated")
        self.library = library
        self.capability = only_device(library)["compute_capability"]
        self._from = np.ones(self._READ_BYTES, np.uint8)
        self._to = np.empty_like(self._from)

    def put(self, array: npt.NDArray[Any]) -> Buffer:
        """See Memory."""
        return _Host(array.copy())

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """See Memory."""
        return _Host(np.empty(shape, dtype))

    def stream(self) -> int:
        """Return 0, as there is none."""
        return 0

    def facts(self) -> dict[str, Any]:
        """See Device."""
        return {"device": "emulated", "capability": self.capability, "cuda_library": library_hash(self.library)}

    def clock(self, work: Work) -> float:
        """Measure wall-clock time; nothing is enqueued here."""
        return wall_clock(work)

    def captured(self, work: Work) -> Work | None:
        """See Device."""
        return None

    def reads(self) -> dict[str, tuple[int, Work]]:
        """See Device."""
        return {
            "copy": (2 * self._READ_BYTES, lambda: np.copyto(self._to, self._from)),
            "sum": (self._READ_BYTES, lambda: self._from.view(np.uint64).sum()),
        }

    def peer(self, name: str, N: int, K: int, M: int, G: int, count: int) -> Contender:
        """Raise AbsentError for each of them."""
        raise AbsentError("needs a GPU")

    def release(self) -> None:
        """See Device."""


class _Allocation:
    def __init__(self, driver: "DriverMemory", nbytes: int, shape: tuple[int, ...], dtype: str) -> None:
        self._driver, self._nbytes, self._shape, self._dtype = driver, nbytes, shape, dtype
        pointer = ctypes.c_uint64()
        driver.call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(nbytes, 1)))
        self.address = pointer.value

    def numpy(self) -> npt.NDArray[Any]:
        array = np.empty(self._shape, self._dtype)
        self._driver.call("cuMemcpyDtoH_v2", array.ctypes, ctypes.c_uint64(self.address), ctypes.c_size_t(self._nbytes))
        return array

    def __del__(self) -> None:
        if hasattr(self, "address"):
            self._driver.call("cuMemFree_v2", ctypes.c_uint64(self.address))


class DriverMemory:
    """Memory of the first GPU, from libcuda. Raises DualBinaryError with the driver's words."""

    def __init__(self, library: Path) -> None:
        self.library = library
        try:
            self._driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        except OSError as error:
            raise InputError(f"no NVIDIA driver: {error}") from error
        context, device = ctypes.c_void_p(), ctypes.c_int()
        self.call("cuInit", ctypes.c_uint(0))
        self.call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        # The context that the CUDA runtime inside the library uses as well.
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver."""
        code = getattr(self._driver, name)(*arguments)
        if code != 0:
            words = ctypes.c_char_p()
            self._driver.cuGetErrorString(code, ctypes.byref(words))
            raise DualBinaryError(f"{name}: {words.value.decode() if words.value else f'error {code}'}")

    def put(self, array: npt.NDArray[Any]) -> Buffer:
        """See Memory."""
        array = np.ascontiguousarray(array)
        buffer = _Allocation(self, array.nbytes, array.shape, array.dtype.str)
        self.call("cuMemcpyHtoD_v2", ctypes.c_uint64(buffer.address), array.ctypes, ctypes.c_size_t(array.nbytes))
        return buffer

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """See Memory."""
        return _Allocation(self, int(np.prod(shape)) * np.dtype(dtype).itemsize, shape, dtype)

    def stream(self) -> int:
        """Return the default stream, which copies of the driver wait for."""
        return 0
