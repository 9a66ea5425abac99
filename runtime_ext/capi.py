"""The library's plain C interface from Python: one prepared weight, and the operators without ONNX Runtime.

For tests, benchmarks and experiments; `src/capi/dualbinary.h` documents the functions underneath.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualbinary.contract.levels import FREE, Levels
from dualbinary.contract.scale_codes import BFLOAT16
from dualbinary.contract.schema import OP
from dualbinary.errors import InputError
from runtime_ext.library import library_path, load

__all__ = ["TYPES", "Spec", "Weight", "outputs_and_planes", "signed_hadamard"]

# The last two are for scales alone.
TYPES = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(np.uint8): 2, BFLOAT16: 3}
_TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t)
_PARALLEL_FOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p, _TASK, ctypes.c_void_p, ctypes.c_size_t)

ParallelFor = Callable[[Callable[[int], None], int], None]
"""A parallel loop: called with (task, count), it calls task(i) for every i below count; it returns after the last."""


class Spec(ctypes.Structure):
    """dualbinary_spec of src/capi/dualbinary.h."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                "K",
                "N",
                "group_size",
                "planes",
                "scale_rows",
                "layout",
                "accuracy_level",
                "levels",
                "twice_zero",
                "scale_outputs",
            )
        ),
        ("scale_type", ctypes.c_int32),
    ]


class Hadamard(ctypes.Structure):
    """dualbinary_hadamard of src/capi/dualbinary.h."""

    _fields_ = [(name, ctypes.c_int64) for name in ("K", "block_size", "inverse")]


class Weight:
    """Planes [P, N, Kp/8 + Z] and scales [C, N, Kp/G], packed for one kernel. A context manager, or `close()` it.

    Scales may have any type of the contract, and be [C, 1, Kp/G] where `levels` allow it. `layout` is a number of the
    contract; blocks [B, bytes] come with scales [C, N, 0], are of `planes_in_blocks` planes, and are used where they
    are; codes are [N, Kp/G + E, G*P/8]. `kernel` is a name from describe()["kernels"], or None for the best at this
    accuracy_level. `library` is another build's file, in place of this package's. The arrays are kept and must not be
    changed. Raises InputError where the library refuses something.
    """

    def __init__(
        self,
        planes: npt.NDArray[np.uint8],
        scales: npt.NDArray[np.generic],
        *,
        K: int,
        group_size: int,
        levels: Levels = FREE,
        accuracy_level: int = 0,
        layout: int = OP.layouts[0].number,
        planes_in_blocks: int | None = None,
        kernel: str | None = None,
        library: Path | None = None,
    ) -> None:
        self.N, count = outputs_and_planes(planes, scales, layout, group_size)
        self.K = K
        self._planes, self._scales = np.ascontiguousarray(planes), np.ascontiguousarray(scales)
        self._library = _typed_library(library)
        self._handle = ctypes.c_void_p()
        spec = Spec(
            K,
            self.N,
            group_size,
            count if planes_in_blocks is None else planes_in_blocks,
            len(scales),
            layout,
            accuracy_level,
            levels.even,
            levels.twice_zero,
            scales.shape[1],
            TYPES.get(scales.dtype, -1),
        )
        _check(
            self._library.dualbinary_weight_create(
                ctypes.byref(spec),
                self._planes.ctypes.data,
                self._planes.nbytes,
                self._scales.ctypes.data,
                self._scales.nbytes,
                None if kernel is None else kernel.encode(),
                ctypes.byref(self._handle),
            )
        )

    @property
    def kernel(self) -> str:
        """Name of the kernel in use."""
        return self._library.dualbinary_weight_kernel(self._handle).decode()

    @property
    def nbytes(self) -> int:
        """Bytes of the weight that one product reads."""
        return self._library.dualbinary_weight_bytes(self._handle)

    def multiply(
        self,
        x: npt.NDArray[np.floating],
        out: npt.NDArray[np.floating] | None = None,
        parallel: ParallelFor | None = None,
    ) -> npt.NDArray[np.floating]:
        """Return Y [M, N] for X [M, K], both float32 or both float16; into `out` where it is given."""
        x = np.ascontiguousarray(x)
        y = np.empty((len(x), self.N), x.dtype) if out is None else out
        if x.ndim != 2 or x.shape[1] != self.K or y.shape != (len(x), self.N) or y.dtype != x.dtype:
            raise InputError(f"x: expected [M, {self.K}] and out [M, {self.N}], got {list(x.shape)}, {list(y.shape)}")
        if not y.flags.c_contiguous:
            raise InputError("out must be contiguous")
        callback = _PARALLEL_FOR() if parallel is None else _as_callback(parallel)
        _check(
            self._library.dualbinary_multiply(
                self._handle, x.ctypes.data, TYPES.get(x.dtype, -1), len(x), y.ctypes.data, callback, None
            )
        )
        return y

    def close(self) -> None:
        """Free the packed weight. Harmless to call twice."""
        self._library.dualbinary_weight_destroy(self._handle)
        self._handle = ctypes.c_void_p()

    def __enter__(self) -> "Weight":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def signed_hadamard(
    x: npt.NDArray[np.floating],
    signs: npt.NDArray[np.int8],
    block_size: int,
    inverse: int = 0,
    *,
    out: npt.NDArray[np.floating] | None = None,
    kernel: str | None = None,
    parallel: ParallelFor | None = None,
) -> npt.NDArray[np.floating]:
    """Return Y [M, K] for X [M, K], both float32 or both float16, and signs [K]; into `out` where it is given.

    `kernel` is a name from describe()["hadamard_kernels"], or None for the best; all give the same bits. Raises
    InputError where the library refuses something.
    """
    x, signs = np.ascontiguousarray(x), np.ascontiguousarray(signs)
    y = np.empty_like(x) if out is None else out
    if x.ndim != 2 or signs.shape != x.shape[1:] or signs.dtype != np.int8:
        raise InputError(
            f"expected x [M, K] and int8 signs [K], got {list(x.shape)}, {signs.dtype} {list(signs.shape)}"
        )
    if y.shape != x.shape or y.dtype != x.dtype or not y.flags.c_contiguous:
        raise InputError("out must be contiguous, of the shape and type of x")
    _check(
        _typed_library().dualbinary_signed_hadamard(
            ctypes.byref(Hadamard(x.shape[1], block_size, inverse)),
            signs.ctypes.data,
            None if kernel is None else kernel.encode(),
            x.ctypes.data,
            TYPES.get(x.dtype, -1),
            len(x),
            y.ctypes.data,
            _PARALLEL_FOR() if parallel is None else _as_callback(parallel),
            None,
        )
    )
    return y


def outputs_and_planes(planes: np.ndarray, scales: np.ndarray, layout: int, group_size: int) -> tuple[int, int]:
    """N, and P where the shape of `planes` says it: in a layout of blocks only its user knows it."""
    if layout == OP.layout_named("codes").number:
        return len(planes), 8 * planes.shape[2] // group_size
    return (planes if layout == OP.layouts[0].number else scales).shape[1], len(planes)


def _as_callback(parallel: ParallelFor) -> Any:
    def run(_pool: int, task: Any, data: int, count: int) -> None:
        parallel(lambda index: task(data, index), count)

    return _PARALLEL_FOR(run)


def _typed_library(path: Path | None = None) -> ctypes.CDLL:
    library = load(path or library_path())
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "weight_create": (ctypes.c_char_p, [pointer, pointer, size, pointer, size, ctypes.c_char_p, pointer]),
        "weight_destroy": (None, [pointer]),
        "weight_kernel": (ctypes.c_char_p, [pointer]),
        "weight_bytes": (size, [pointer]),
        "multiply": (
            ctypes.c_char_p,
            [pointer, pointer, ctypes.c_int32, ctypes.c_int64, pointer, _PARALLEL_FOR, pointer],
        ),
        "signed_hadamard": (
            ctypes.c_char_p,
            [
                *(pointer, pointer, ctypes.c_char_p, pointer, ctypes.c_int32),
                *(ctypes.c_int64, pointer, _PARALLEL_FOR, pointer),
            ],
        ),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, f"dualbinary_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def _check(message: bytes | None) -> None:
    if message is not None:
        raise InputError(message.decode())
