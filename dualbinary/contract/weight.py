"""A quantized weight as one value: the form it has, and its planes and scales.

`PlaneFormat` holds all that the sizes N and K do not decide; `PlaneWeight` adds K and the two tensors. All packages
pass these objects; layout.py, blocked_layouts.py and scale_codes.py define the bytes inside.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dualbinary.contract.blocked_layouts import block_shape, stored_shape
from dualbinary.contract.layout import check_tensors, dequantize, pack_planes, to_layout, to_plain
from dualbinary.contract.scale_codes import scale_columns
from dualbinary.contract.schema import OP, padded_k
from dualbinary.errors import InputError

__all__ = ["LEVELS", "PER_CHANNEL", "PlaneFormat", "PlaneWeight"]

PER_CHANNEL = -1
"""A group_size: one group per output, of Kp = K rounded up to a multiple of 32."""

LEVELS = ("free", "symmetric")
PLAIN = OP.layouts[0].name
_SCALE_DTYPES = tuple(np.dtype(name) for name in ("float16", "float32", "uint8"))


@dataclass(frozen=True)
class PlaneFormat:
    """The form of a quantized weight. Construction raises InputError, naming the field, outside the contract.

    Attributes:
        planes: P, the number of binary planes.
        group_size: G, inputs that share scales: a multiple of 32, or PER_CHANNEL.
        offset: each group has an offset, the last row of the scales.
        levels: "free", any scales; or "symmetric" (QBB), where the offset is minus half the sum of the other scales,
            so that every level has its negative.
        scale_dtype: type of the stored scales: float16, float32, or uint8 for codes (scale_codes.py).
        layout: name of the stored layout.
    """

    planes: int
    group_size: int
    offset: bool = False
    levels: str = "free"
    scale_dtype: np.dtype[Any] = _SCALE_DTYPES[0]
    layout: str = PLAIN

    def __post_init__(self) -> None:
        low, high, multiple = (OP.limits[key] for key in ("min_planes", "max_planes", "group_multiple"))
        size, layouts = self.group_size, [layout.name for layout in OP.layouts]
        object.__setattr__(self, "scale_dtype", np.dtype(self.scale_dtype))
        whole = type(size) is int and (size == PER_CHANNEL or (size > 0 and size % multiple == 0))
        sizes = f"a positive multiple of {multiple}, or {PER_CHANNEL} for one group per output"
        for field, allowed, expected in (
            ("planes", type(self.planes) is int and low <= self.planes <= high, f"an integer from {low} to {high}"),
            ("group_size", whole, sizes),
            ("levels", self.levels in LEVELS, f"one of {', '.join(LEVELS)}"),
            ("offset", self.levels == "free" or self.offset, "an offset with symmetric levels"),
            ("scale_dtype", self.scale_dtype in _SCALE_DTYPES, "float16, float32 or uint8"),
            ("layout", self.layout in layouts, f"one of {', '.join(layouts)}"),
        ):
            if not allowed:
                raise InputError(f"{field}: expected {expected}, got {getattr(self, field)!r}")

    @property
    def scale_rows(self) -> int:
        """C: P, or P+1 with an offset."""
        return self.planes + self.offset

    @property
    def symmetric(self) -> bool:
        """Every level has its negative."""
        return self.levels == "symmetric"

    def for_inputs(self, K: int) -> "PlaneFormat":
        """The format of a weight of K inputs, with a number as group size."""
        if self.group_size != PER_CHANNEL:
            return self
        return replace(self, group_size=padded_k(K, OP.limits["group_multiple"]))

    def groups(self, K: int) -> int:
        """The groups of one output with K inputs."""
        return -(-K // self.for_inputs(K).group_size)

    def row_bits(self, K: int) -> int:
        """Bits of one output with K inputs in layout plain, padding and scales included."""
        size, groups = self.for_inputs(K).group_size, self.groups(K)
        columns = scale_columns(groups, self.scale_dtype)
        return groups * size * self.planes + self.scale_rows * columns * 8 * self.scale_dtype.itemsize

    def shapes(self, N: int, K: int) -> tuple[list[int], list[int]]:
        """Dimensions of the planes and scales of a weight [N, K], as the layout stores them."""
        size, groups = self.for_inputs(K).group_size, self.groups(K)
        if OP.layout_named(self.layout).blocks:
            blocks = block_shape(self.planes, self.scale_rows, self.scale_dtype, n=N, k=K, group_size=size)
            return [blocks.count, blocks.block_bytes], [self.scale_rows, N, 0]
        columns = scale_columns(groups, self.scale_dtype)
        return [self.planes, N, groups * size // 8], [self.scale_rows, N, columns]


@dataclass(frozen=True, eq=False)
class PlaneWeight:
    """A weight [N, K] as planes and scales.

    Attributes:
        planes: uint8; in layout plain [P, N, Kp/8] with padding bits 0.
        scales: of `format.scale_dtype`; in layout plain [C, N, Kp/G], with two columns more for codes.
        K: inputs.
        format: their form, with a number as group size.
    """

    planes: npt.NDArray[np.uint8]
    scales: npt.NDArray[Any]
    K: int
    format: PlaneFormat

    @classmethod
    def of(
        cls, planes: npt.NDArray[np.uint8], scales: npt.NDArray[Any], K: int, group_size: int, layout: str = PLAIN
    ) -> "PlaneWeight":
        """The weight that two tensors of `layout` hold; P, C and the type of the scales are theirs.

        Raises InputError where they do not fit the contract.
        """
        if OP.layout_named(layout).blocks:
            shape = stored_shape(planes.shape, scales.shape, scales.dtype, K, group_size)
            count, rows = shape.planes, shape.scale_rows
        else:
            check_tensors(planes, scales, planes.shape[1] if planes.ndim == 3 else 0, K, group_size)
            count, rows = len(planes), len(scales)
        form = PlaneFormat(count, group_size, rows > count, scale_dtype=scales.dtype, layout=layout)
        return cls(planes, scales, K, form)

    @classmethod
    def pack(cls, bits: npt.ArrayLike, scales: npt.NDArray[Any], group_size: int) -> "PlaneWeight":
        """The weight of bits [P, N, K] and scales [C, N, Kp/G]. Raises InputError as `pack_planes` and `of` do."""
        planes = pack_planes(bits, group_size)
        return cls.of(planes, scales, np.shape(bits)[2], group_size)

    @classmethod
    def concatenate(cls, parts: Sequence["PlaneWeight"]) -> "PlaneWeight":
        """The outputs of all `parts`, one after another, in layout plain; N and the type of scales may differ."""
        planes = np.concatenate([part.planes for part in parts], axis=1)
        scales = np.concatenate([part.scales for part in parts], axis=1)
        return replace(parts[0].with_scales(scales), planes=planes)

    @property
    def N(self) -> int:
        """Outputs."""
        return self.scales.shape[1]

    @property
    def nbytes(self) -> int:
        """Stored bytes, padding included."""
        return self.planes.nbytes + self.scales.nbytes

    def check(self, name: str = "weight") -> None:
        """Raise InputError, naming `name`, unless the tensors of layout plain fit the contract."""
        check_tensors(self.planes, self.scales, self.N, self.K, self.format.group_size, name)

    def rows(self, index: slice | npt.NDArray[np.intp]) -> "PlaneWeight":
        """The outputs of `index`, in layout plain."""
        return replace(self, planes=self.planes[:, index], scales=self.scales[:, index])

    def with_scales(self, scales: npt.NDArray[Any]) -> "PlaneWeight":
        """The same planes with other scales."""
        return replace(self, scales=scales, format=replace(self.format, scale_dtype=scales.dtype))

    def dequantize(self) -> npt.NDArray[np.float64]:
        """The weight [N, K]."""
        plain = self.to_layout(PLAIN)
        return dequantize(plain.planes, plain.scales, self.K, self.format.group_size)

    def to_layout(self, name: str) -> "PlaneWeight":
        """The same weight in the layout called `name`, byte for byte. Raises InputError for tensors of other shapes."""
        if name == self.format.layout:
            return self
        sizes = (self.K, self.format.group_size)
        plain = to_plain(self.format.layout, self.planes, self.scales, *sizes)
        planes, scales = to_layout(name, *plain, *sizes)
        return PlaneWeight(planes, scales, self.K, replace(self.format, layout=name))
