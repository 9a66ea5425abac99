"""What a model carries from one step to the next: keys and values of all tokens, or states of fixed size."""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dualbinary import InputError
from dualbinary.files.cache_names import PAST, present_name
from runtime_ext.providers import Provider

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["CacheTensor", "cache_tensors", "untouched_zeros"]

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}
_RANK = 4  # of keys and values: [batch, heads, length, head size]
_LENGTH = 2  # its axis of tokens


@dataclass(frozen=True)
class CacheTensor:
    """One key, value or state tensor of one layer.

    Attributes:
        past, present: the input that takes it and the output that gives it.
        shape: its shape without the batch; None stands for the tokens of keys and values.
        dtype: its element type. Rows of an int8 cache have D numbers and, behind them, their factor in four bytes.
    """

    past: str
    present: str
    shape: tuple[int | None, ...]
    dtype: type[np.number]

    @property
    def grows(self) -> bool:
        """True for keys and values; a state is replaced by another one of its size."""
        return None in self.shape

    @property
    def bytes_per_token(self) -> int:
        """Memory that a token takes; 0 for a state."""
        sizes = [size for size in self.shape if size is not None]
        return int(np.prod(sizes)) * np.dtype(self.dtype).itemsize if self.grows else 0

    def zeros(self, length: int) -> npt.NDArray[np.number]:
        """What one sequence begins with: room for `length` tokens, or a state."""
        return np.zeros((1, *(length if size is None else size for size in self.shape)), self.dtype)

    def empty(self, length: int, provider: Provider) -> ort.OrtValue:
        """`zeros` on the provider's device; without any elements it is on the CPU."""
        import onnxruntime as ort  # late: a command that prints its help does without

        values = self.zeros(length)
        place = (provider.name, provider.device) if values.size else ("cpu", 0)
        return ort.OrtValue.ortvalue_from_numpy(values, *place)


def untouched_zeros(shape: tuple[int, ...], dtype: type[np.number]) -> npt.NDArray[np.number]:
    """Zeros that take memory page by page, as they are written to.

    NumPy asks the system for huge pages, of which the first token of each head takes a whole one: megabytes for
    kilobytes. Attention over small ones was as fast (docs/log/models.md).
    """
    if not hasattr(mmap, "MADV_NOHUGEPAGE"):
        return np.zeros(shape, dtype)
    memory = mmap.mmap(-1, math.prod(shape) * np.dtype(dtype).itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)


def cache_tensors(session: ort.InferenceSession) -> list[CacheTensor]:
    """The tensors that the model of `session` carries.

    Raises InputError for an input without its output, and for types and shapes that these tensors do not have.
    """
    outputs = {value.name for value in session.get_outputs()}
    tensors = []
    for value in session.get_inputs():
        name, present = value.name, present_name(value.name)
        if present is None:
            continue
        if present not in outputs:
            raise InputError(f"it has the input {name} but no output {present}")
        if value.type not in _TYPES:
            raise InputError(f"{name}: expected a cache of {' or '.join(_TYPES)}, got {value.type}")
        grows = name.startswith(PAST)
        shape = [None if grows and axis == _LENGTH else size for axis, size in enumerate(value.shape)][1:]
        if (grows and len(value.shape) != _RANK) or not all(size is None or isinstance(size, int) for size in shape):
            expected = "[batch, heads, length, head_size]" if grows else "sizes that are known, behind the batch"
            raise InputError(f"{name}: expected shape {expected}, got {value.shape}")
        tensors.append(CacheTensor(name, present, tuple(shape), _TYPES[value.type]))
    return tensors
