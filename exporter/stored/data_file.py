"""The external data file, written front to back while its contents are computed.

Nothing is kept in memory: each tensor goes to disk as soon as it is there, at an offset that lets a device map it, and
the graph's initializer then points there.
"""

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from tqdm import tqdm

from dualbinary.files.atomic import sync
from dualbinary.onnx_files.data_file import ALIGNMENT, INLINE_BYTES, AlignedFile
from exporter.stored.tensor_jobs import TensorJob, run_jobs
from exporter.stored.vocabulary_tables import require_finite

__all__ = ["max_data_bytes", "write_data_file"]

_MAX_THREADS = 4  # each holds a layer in float32; more cores would buy time with memory


def write_data_file(path: Path, model: ir.Model, jobs: Sequence[TensorJob], progress: bool) -> None:
    """Write constants of the graph, such as tables of the rotation, and the results of `jobs` to the file `path`.

    Initializers of `model` point there afterward, or hold their data where it is small.
    """
    threads = min(os.cpu_count() or 1, _MAX_THREADS)
    work = sum(job.work for job in jobs)
    shown = {"unit": "w", "unit_scale": True, "desc": "weights", "file": sys.stderr, "mininterval": 0.5}
    with open(path, "wb") as opened, tqdm(total=work, disable=not progress, **shown) as bar:
        file = AlignedFile(opened)
        for value in list(model.graph.initializers.values()):
            if value.const_value is not None and value.const_value.nbytes >= ALIGNMENT:
                _add(file, path, value, require_finite(value.const_value.numpy(), str(value.name)))
        for job, arrays in run_jobs(jobs, threads):
            for value, array in zip(job.values, arrays, strict=True):
                _add(file, path, value, array)
            bar.update(job.work)
    sync(path)


def max_data_bytes(model: ir.Model) -> int:
    """Bytes of the data file, at most."""
    total = 0
    for value in model.graph.initializers.values():
        assert value.shape is not None and value.dtype is not None
        total += math.ceil(math.prod(value.shape.numpy()) * value.dtype.itemsize) + ALIGNMENT
    return total


def _add(file: AlignedFile, path: Path, value: ir.Value, array: np.ndarray) -> None:
    """Store `array` as the content of `value`; both must agree in shape and element type."""
    name = str(value.name)
    dtype, shape = value.dtype, value.shape
    if dtype is None or shape is None or list(shape.numpy()) != list(array.shape) or dtype.numpy() != array.dtype:
        raise TypeError(f"{name}: the graph declares {dtype} {shape}, got {array.dtype} {list(array.shape)}")
    array = np.ascontiguousarray(array)
    if array.nbytes < INLINE_BYTES:
        value.const_value = ir.tensor(array, name=name)
        return
    offset, _ = file.append([array.reshape(-1).view(np.uint8).data])  # NumPy gives no buffer of bfloat16
    value.const_value = ir.ExternalTensor(
        path.name, offset, array.nbytes, dtype, shape=shape, name=name, base_dir=path.parent
    )
