"""The CUDA library's plain C interface from Python: one packed weight, products on a device without ONNX Runtime.

For tests, benchmarks and experiments; `src/capi/dualbinary_cuda.h` documents the functions underneath. Addresses are
integers: of device memory, as torch.Tensor.data_ptr() gives them, or of NumPy arrays where the library is the emulated
one.
"""

import ctypes
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualbinary.contract.levels import FREE, Levels
from dualbinary.contract.schema import OP
from dualbinary.errors import InputError
from runtime_ext.capi import TYPES, Spec, outputs_and_planes

__all__ = ["TYPE_NUMBERS", "CudaWeight", "describe"]

TYPE_NUMBERS = {"float32": 0, "float16": 1, "bfloat16": 3}
"""Types of activations, by the number that the interface has for them."""


class CudaWeight:
    """Planes [P, N, Kp/8 + Z] and scales [C, N, Kp/G] of layout 1, packed on a device. Use as a context manager.

    Or codes [N, Kp/G + E, G*P/8] with the same scales, where `layout` is that number. Scales may be [C, 1, Kp/G] where
    `levels` allow it. `library` is the file of libdualbinary_cuda or of libdualbinary_cuda_emulated. Raises InputError
    where it refuses something.
    """

    def __init__(
        self,
        library: Path,
        planes: npt.NDArray[np.uint8],
        scales: npt.NDArray[np.generic],
        *,
        K: int,
        group_size: int,
        levels: Levels = FREE,
        accuracy_level: int = 0,
        device: int = 0,
        layout: int = OP.layouts[0].number,
    ) -> None:
        self.N, count = outputs_and_planes(planes, scales, layout, group_size)
        self.K = K
        self._library = _load(library)
        self._handle = ctypes.c_void_p()
        planes, scales = np.ascontiguousarray(planes), np.ascontiguousarray(scales)
        spec = Spec(
            K,
            self.N,
            group_size,
            count,
            len(scales),
            layout,
            accuracy_level,
            levels.even,
            levels.twice_zero,
            scales.shape[1],
            TYPES.get(scales.dtype, -1),
        )
        _check(
            self._library.dualbinary_cuda_weight_create(
                ctypes.byref(spec),
                planes.ctypes.data,
                planes.nbytes,
                scales.ctypes.data,
                scales.nbytes,
                device,
                ctypes.byref(self._handle),
            )
        )

    @property
    def nbytes(self) -> int:
        """Bytes of device memory that the weight takes."""
        return self._library.dualbinary_cuda_weight_bytes(self._handle)

    def kernel(self, x_type: str, rows: int) -> str:
        """Name of the kernel that the library chooses for X [rows, K]."""
        return self._library.dualbinary_cuda_kernel(self._handle, TYPE_NUMBERS[x_type], rows).decode()

    def workspace(self, x_type: str, rows: int, kernel: str | None = None) -> int:
        """Bytes of device memory, aligned to 256 (OP.cuda), that such a product needs beside X and Y."""
        size = ctypes.c_size_t()
        name = None if kernel is None else kernel.encode()
        _check(
            self._library.dualbinary_cuda_workspace(self._handle, TYPE_NUMBERS[x_type], rows, name, ctypes.byref(size))
        )
        return size.value

    def multiply(
        self,
        x: int,
        x_type: str,
        rows: int,
        y: int,
        *,
        workspace: int = 0,
        workspace_bytes: int = 0,
        stream: int = 0,
        kernel: str | None = None,
    ) -> None:
        """Enqueue Y [rows, N] = X [rows, K] times the weight; `x`, `y` and `workspace` are addresses."""
        name = None if kernel is None else kernel.encode()
        _check(
            self._library.dualbinary_cuda_multiply(
                self._handle, x, TYPE_NUMBERS[x_type], rows, y, workspace, workspace_bytes, stream, name
            )
        )

    def close(self) -> None:
        """Free the packed weight. Harmless to call twice."""
        self._library.dualbinary_cuda_weight_destroy(self._handle)
        self._handle = ctypes.c_void_p()

    def __enter__(self) -> "CudaWeight":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def describe(library: Path) -> dict[str, Any]:
    """Describe build and devices: see dualbinary_cuda_describe() in src/capi/dualbinary_cuda.h."""
    text = ctypes.c_char_p()
    _check(_load(library).dualbinary_cuda_describe(ctypes.byref(text)))
    assert text.value is not None
    return json.loads(text.value)


@cache
def _load(path: Path) -> ctypes.CDLL:
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    message, number, rows = ctypes.c_char_p, ctypes.c_int32, ctypes.c_int64
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "describe": (message, [pointer]),
        "weight_create": (message, [pointer, pointer, size, pointer, size, number, pointer]),
        "weight_destroy": (None, [pointer]),
        "weight_bytes": (size, [pointer]),
        "kernel": (ctypes.c_char_p, [pointer, number, rows]),
        "workspace": (message, [pointer, number, rows, ctypes.c_char_p, pointer]),
        "multiply": (message, [pointer, pointer, number, rows, pointer, pointer, size, pointer, ctypes.c_char_p]),
    }
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in signatures.items():
            function = getattr(library, f"dualbinary_cuda_{name}")
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise InputError(f"{path} is not a usable CUDA library of dualbinary: {error}") from error
    return library


def _check(message: bytes | None) -> None:
    if message is not None:
        raise InputError(message.decode())
