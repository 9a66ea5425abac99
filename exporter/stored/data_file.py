"""The external data file, written front to back while its contents are being made.

Nothing is held: each tensor goes to disk as it arrives, at an offset that lets a device map it, and the graph's
initializer is pointed there.
"""

import math
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from dualbinary.onnx_files.data_file import ALIGNMENT, INLINE_BYTES, AlignedFile

__all__ = ["DataFile", "padded_size"]


class DataFile:
    """An external data file of an ONNX model."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        """Write to `file`, which lies at `path` now and will lie beside the model under the same name."""
        self._file = AlignedFile(file)
        self._path = path

    def add(self, value: ir.Value, array: np.ndarray) -> None:
        """Store `array` as the content of `value`; both must agree in shape and element type."""
        name = str(value.name)
        dtype, shape = value.dtype, value.shape
        if dtype is None or shape is None or list(shape.numpy()) != list(array.shape) or dtype.numpy() != array.dtype:
            raise TypeError(f"{name}: the graph declares {dtype} {shape}, got {array.dtype} {list(array.shape)}")
        array = np.ascontiguousarray(array)
        if array.nbytes < INLINE_BYTES:
            value.const_value = ir.tensor(array, name=name)
            return
        offset, _ = self._file.append([array.data.cast("B")])
        value.const_value = ir.ExternalTensor(
            self._path.name, offset, array.nbytes, dtype, shape=shape, name=name, base_dir=self._path.parent
        )


def padded_size(value: ir.Value) -> int:
    """Bytes that `value` takes in the file at most."""
    assert value.shape is not None and value.dtype is not None
    return math.ceil(math.prod(value.shape.numpy()) * value.dtype.itemsize) + ALIGNMENT
