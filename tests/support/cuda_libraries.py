"""Libraries of CUDA kernels, emulated and real, with memory of their devices.

For the tests of the kernels and of the op for CUDA, of the CUDA benchmark, and of whole models over emulated kernels.

A `Device` brings arrays to where a library wants them and back. Both fill what is to be written with NaN beforehand and
keep guard zones around it, so that an output that is left out or a write beside it is seen.
"""

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import pytest

from runtime_ext.cuda_capi import describe
from runtime_ext.library import library_path
from tests.support.cmake_builds import BUILDS, build

ROOT = Path(__file__).parents[2]
BUILD = BUILDS / "emulated"
ADAPTER_BUILD = BUILDS / "cuda_adapter"
GUARD = 256
"""Bytes on both sides of an array that no kernel may touch; X begins right after one, at the alignment of tensors."""
POISON = 0xFF
"""Every byte of memory that is not set: NaN in all the types."""


@cache
def emulated_library() -> Path:
    """Build libdualbinary_cuda_emulated, or bring it up to date."""
    build(ROOT, BUILD, "dualbinary_cuda_emulated", "-DDUALBINARY_CUDA_EMULATED=ON", "-DCMAKE_BUILD_TYPE=Release")
    return BUILD / "libdualbinary_cuda_emulated.so"


@cache
def adapter_libraries() -> Path:
    """Build the op for CUDA, as a library that registers it for the CPU provider, and stand-ins for the CUDA library.

    The directory that holds them, brought up to date. The op's library is to be copied: it keeps what it opens.
    """
    build(ROOT / "tests" / "runtime" / "cuda_adapter", ADAPTER_BUILD, "all")
    return ADAPTER_BUILD


class Device(Protocol):
    """A library and the memory that it works on."""

    library: Path
    probe_library: Path
    capability: int

    def array(self, values: np.ndarray) -> Any:
        """A copy in the library's memory, at a multiple of 256 bytes, with guard zones."""
        ...

    def address(self, array: Any) -> int:
        """Where it begins."""
        ...

    def read(self, array: Any, like: np.ndarray) -> np.ndarray:
        """Its content now, of the type and shape of `like`. Fails where a guard zone was written to."""
        ...


class Emulated:
    """The emulated library; memory is NumPy's."""

    def __init__(self, capability: int = 90) -> None:
        self.library = self.probe_library = emulated_library()
        self.capability = capability

    def array(self, values: np.ndarray) -> np.ndarray:
        memory = np.full(values.nbytes + 2 * GUARD + 256, POISON, np.uint8)
        begin = -memory.ctypes.data % 256
        memory = memory[begin : begin + values.nbytes + 2 * GUARD]
        memory[GUARD : GUARD + values.nbytes] = np.frombuffer(values.tobytes(), np.uint8)
        return memory

    def address(self, array: np.ndarray) -> int:
        return array.ctypes.data + GUARD

    def read(self, array: np.ndarray, like: np.ndarray) -> np.ndarray:
        return _unguarded(array, like)


class Gpu:
    """The real library; memory is torch's."""

    def __init__(self) -> None:
        torch = pytest.importorskip("torch")
        named = os.environ.get("DUALBINARY_CUDA_LIBRARY")
        self.library = Path(named) if named else library_path().with_name("libdualbinary_cuda.so")
        if not self.library.is_file():
            pytest.skip(f"there is no {self.library}; build with -DDUALBINARY_CUDA=ON")
        if not torch.cuda.is_available():
            pytest.skip("this torch has no CUDA, and the tests take device memory from it")
        self.probe_library = self.library.with_name(f"{self.library.stem}_probe.so")
        self._torch = torch
        self.capability = describe(self.library)["devices"][0]["compute_capability"]

    def array(self, values: np.ndarray) -> Any:
        memory = np.full(values.nbytes + 2 * GUARD, POISON, np.uint8)
        memory[GUARD : GUARD + values.nbytes] = np.frombuffer(values.tobytes(), np.uint8)
        return self._torch.from_numpy(memory).cuda()

    def address(self, array: Any) -> int:
        return array.data_ptr() + GUARD

    def read(self, array: Any, like: np.ndarray) -> np.ndarray:
        self._torch.cuda.synchronize()
        return _unguarded(array.cpu().numpy(), like)


INSTRUCTIONS = ("mma_b1", "mma_u8 signed", "mma_u8 unsigned", "mma_f16", "wgmma")
"""Matrix instructions that `probe` knows."""


def probe(device: Device, instruction: str, *addresses: int) -> None:
    """Enqueue D = A times the transpose of B by one matrix instruction: see tests/runtime/cuda_probe/probe.cu."""
    if not device.probe_library.is_file():
        pytest.skip(f"there is no {device.probe_library}; build with -DDUALBINARY_CUDA_PROBE=ON")
    function = ctypes.CDLL(str(device.probe_library)).dualbinary_cuda_probe
    function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_char_p, *[ctypes.c_void_p] * 4]
    message = function(instruction.encode(), *addresses, None)
    assert message is None, message


def _unguarded(memory: np.ndarray, like: np.ndarray) -> np.ndarray:
    end = GUARD + like.nbytes
    assert (memory[:GUARD] == POISON).all(), "written before an array"
    assert (memory[end:] == POISON).all(), "written past an array"
    return memory[GUARD:end].view(like.dtype).reshape(like.shape).copy()


X_TYPES = {np.dtype(np.float32): "float32", np.dtype(np.float16): "float16", np.dtype(ml_dtypes.bfloat16): "bfloat16"}
"""Names of the types of X."""
