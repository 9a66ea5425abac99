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
from dualbinary.contract.code_layout import CODE_PLANES, code_shape, unpack_codes
from dualbinary.contract.layout import (
    CODES,
    check_levels,
    check_tensors,
    dequantize,
    pack_planes,
    pack_zeros,
    to_layout,
    to_plain,
)
from dualbinary.contract.levels import FREE, GROUP_ZEROS, Levels
from dualbinary.contract.scale_codes import SCALE_DTYPES, dtype_name, scale_columns
from dualbinary.contract.schema import OP, padded_k
from dualbinary.errors import InputError

__all__ = ["EACH_GROUP", "LEVELS", "PER_CHANNEL", "PlaneFormat", "PlaneWeight"]

PER_CHANNEL = -1
"""A group_size: one group per output, of Kp = K rounded up to a multiple of 32."""

EACH_GROUP = "group"
"""A zero of even levels: each group has a zero point, an integer of P bits."""

LEVELS = ("free", "symmetric", "even")
PLAIN = OP.layouts[0].name
_FLOAT16 = np.dtype(np.float16)


@dataclass(frozen=True)
class PlaneFormat:
    """The form of a quantized weight. Construction raises InputError, naming the field, outside the contract.

    Attributes:
        planes: P, the number of binary planes.
        group_size: G, inputs that share scales: a multiple of 32, or PER_CHANNEL; 16 with even levels.
        offset: each group has an offset, the last row of the scales.
        levels: "free", any scales; "symmetric" (QBB), where the offset is minus half the sum of the other scales,
            so that every level has its negative; or "even", w = step * (q - zero) or step * q + offset with
            q = sum_p 2^p b_p.
        zero: of even levels, the q that stands for 0: a multiple of 1/2 from 0 to 2^P - 1, or EACH_GROUP. 0 with an
            offset.
        scale_dtype: type of the stored scales: float16, float32, BFLOAT16, or uint8 for codes (scale_codes.py).
        layout: name of the stored layout.
        per_tensor: even levels of one group a row have one step (and offset) for all outputs.
    """

    planes: int
    group_size: int
    offset: bool = False
    levels: str = "free"
    zero: float | str = 0.0
    scale_dtype: np.dtype[Any] = _FLOAT16
    layout: str = PLAIN
    per_tensor: bool = False

    def __post_init__(self) -> None:
        low, high, multiple = (OP.limits[key] for key in ("min_planes", "max_planes", "group_multiple"))
        half = OP.limits["half_group"]
        size, layouts, even = self.group_size, [layout.name for layout in OP.layouts], self.levels == "even"
        object.__setattr__(self, "scale_dtype", np.dtype(self.scale_dtype))
        whole = type(size) is int and (size == PER_CHANNEL or (size > 0 and size % multiple == 0))
        sizes = f"a positive multiple of {multiple}, or {PER_CHANNEL} for one group per output"
        if size == half:
            whole, sizes = even, f"{sizes}; {half} with even levels"
        *types, last = SCALE_DTYPES.values()
        for field, allowed, expected in (
            ("planes", type(self.planes) is int and low <= self.planes <= high, f"an integer from {low} to {high}"),
            ("levels", self.levels in LEVELS, f"one of {', '.join(LEVELS)}"),
            ("group_size", whole, sizes),
            ("offset", self.levels != "symmetric" or self.offset, "an offset with symmetric levels"),
            ("scale_dtype", self.scale_dtype in SCALE_DTYPES, f"{', '.join(types)} or {last}"),
            ("layout", self.layout in layouts, f"one of {', '.join(layouts)}"),
            ("layout", self.layout != CODES or self.in_codes, "another one than for even levels of 2, 4 or 8 planes"),
        ):
            if not allowed:
                raise InputError(f"{field}: expected {expected}, got {getattr(self, field)!r}")
        self._check_zero()
        if self.per_tensor and not (even and self.zero != EACH_GROUP and self.layout in (PLAIN, CODES)):
            raise InputError("per_tensor: expected even levels with one zero for all, in no layout of blocks, got True")

    def _check_zero(self) -> None:
        most = (1 << self.planes) - 1
        expected, allowed = f"a multiple of 0.5 from 0 to {most}, or {EACH_GROUP!r}", self.zero == EACH_GROUP
        if self.levels != "even" or self.offset:
            expected = "0 beside an offset" if self.levels == "even" else f"0 with {self.levels} levels"
            allowed = self.zero == 0
        elif isinstance(self.zero, (int, float)) and type(self.zero) is not bool:
            allowed = 0 <= self.zero <= most and float(2 * self.zero).is_integer()
        if not allowed:
            raise InputError(f"zero: expected {expected}, got {self.zero!r}")
        if self.zero != EACH_GROUP:
            object.__setattr__(self, "zero", float(self.zero))

    @property
    def scale_rows(self) -> int:
        """C."""
        return (1 if self.even else self.planes) + self.offset

    @property
    def even(self) -> bool:
        """Levels are evenly spaced, and planes share a step."""
        return self.levels == "even"

    @property
    def in_codes(self) -> bool:
        """Layout codes can store it."""
        return self.even and self.planes in CODE_PLANES

    @property
    def node_levels(self) -> Levels:
        """The attributes `levels` and `twice_zero` of a node."""
        if not self.even:
            return FREE
        return Levels(True, GROUP_ZEROS if self.zero == EACH_GROUP else round(2 * float(self.zero)))

    @property
    def version(self) -> int:
        """The oldest version of the operator that has this form."""
        return 2 if self.even or dtype_name(self.scale_dtype) == "bfloat16" else 1

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
        """Bits of one output with K inputs in layout plain, padding, zero points and its own scales included."""
        size, groups = self.for_inputs(K).group_size, self.groups(K)
        columns = 0 if self.per_tensor else scale_columns(groups, self.scale_dtype)
        row_bytes = groups * size // 8 + self.node_levels.zero_bytes(groups)
        return 8 * (row_bytes * self.planes + self.scale_rows * columns * self.scale_dtype.itemsize)

    def shapes(self, N: int, K: int) -> tuple[list[int], list[int]]:
        """Dimensions of the planes and scales of a weight [N, K], as the layout stores them."""
        size, groups = self.for_inputs(K).group_size, self.groups(K)
        if OP.layout_named(self.layout).blocks:
            sizes = {"n": N, "k": K, "group_size": size, "group_zeros": self.node_levels.group_zeros}
            blocks = block_shape(self.planes, self.scale_rows, self.scale_dtype, **sizes)
            return [blocks.count, blocks.block_bytes], [self.scale_rows, N, 0]
        columns = scale_columns(groups, self.scale_dtype)
        row_bytes = groups * size // 8 + self.node_levels.zero_bytes(groups)
        planes = [self.planes, N, row_bytes]
        if self.layout == CODES:
            planes = code_shape(self.planes, N, K, size, self.node_levels)
        return planes, [self.scale_rows, 1 if self.per_tensor else N, columns]


@dataclass(frozen=True, eq=False)
class PlaneWeight:
    """A weight [N, K] as planes and scales.

    Attributes:
        planes: uint8; in layout plain [P, N, Kp/8 + Z] with padding bits 0.
        scales: of `format.scale_dtype`; in layout plain [C, N, Kp/G], with two columns more for codes; [C, 1, ..]
            where `format.per_tensor`.
        K: inputs.
        format: their form, with a number as group size.
    """

    planes: npt.NDArray[np.uint8]
    scales: npt.NDArray[Any]
    K: int
    format: PlaneFormat

    @classmethod
    def of(
        cls,
        planes: npt.NDArray[np.uint8],
        scales: npt.NDArray[Any],
        K: int,
        group_size: int,
        layout: str = PLAIN,
        levels: Levels = FREE,
    ) -> "PlaneWeight":
        """The weight that two tensors of `layout` hold; P, C and the type of the scales are theirs.

        Raises InputError where they do not fit the contract.
        """
        if OP.layout_named(layout).blocks:
            shape = stored_shape(planes.shape, scales.shape, scales.dtype, K, group_size, levels)
            count, rows, per_tensor = shape.planes, shape.scale_rows, False
            check_levels(levels, count)
        elif layout == CODES:
            plain = cls.of(unpack_codes(planes, K, group_size, levels), scales, K, group_size, PLAIN, levels)
            return cls(planes, scales, K, replace(plain.format, layout=CODES))
        else:
            check_tensors(planes, scales, planes.shape[1] if planes.ndim == 3 else 0, K, group_size, levels=levels)
            count, rows, per_tensor = len(planes), len(scales), scales.shape[1] != planes.shape[1]
        form = PlaneFormat(
            count,
            group_size,
            rows > levels.scale_rows(count),
            levels="even" if levels.even else "free",
            zero=EACH_GROUP if levels.group_zeros else levels.twice_zero / 2,
            scale_dtype=scales.dtype,
            layout=layout,
            per_tensor=per_tensor,
        )
        return cls(planes, scales, K, form)

    @classmethod
    def pack(cls, bits: npt.ArrayLike, scales: npt.NDArray[Any], group_size: int) -> "PlaneWeight":
        """The weight of bits [P, N, K] and scales [C, N, Kp/G] of free levels. Raises InputError as `of` does."""
        planes = pack_planes(bits, group_size)
        return cls.of(planes, scales, np.shape(bits)[2], group_size)

    @classmethod
    def pack_even(
        cls,
        q: npt.NDArray[np.integer],
        scales: npt.NDArray[Any],
        form: PlaneFormat,
        zeros: npt.NDArray[np.integer] | None = None,
    ) -> "PlaneWeight":
        """The weight of numbers q [N, K] from 0 to 2^P - 1 and scales [C, N, ..] in a `form` of even levels.

        `zeros` [N, Kp/G] are the zero points of the groups where `form.zero` is EACH_GROUP. Raises InputError where
        they do not fit the form.
        """
        form = form.for_inputs(q.shape[1])
        if q.size and (q.min() < 0 or q.max() >= 1 << form.planes):
            raise InputError(f"q: expected 0 to {(1 << form.planes) - 1}, got {q.min()} to {q.max()}")
        digits = q.astype(np.uint8) >> np.arange(form.planes, dtype=np.uint8)[:, None, None] & np.uint8(1)
        planes = pack_planes(digits, form.group_size)
        if zeros is not None:
            planes = pack_zeros(planes, zeros)
        weight = cls(planes, scales, q.shape[1], form)
        weight.check()
        return weight

    @classmethod
    def concatenate(cls, parts: Sequence["PlaneWeight"]) -> "PlaneWeight":
        """The outputs of all `parts`, one after another, in layout plain; N and the type of scales may differ."""
        planes = np.concatenate([part.planes for part in parts], axis=1)
        scales = parts[0].scales
        form = parts[0].format
        if len(parts) > 1:
            parts = [part.with_own_scales() for part in parts]
            scales = np.concatenate([part.scales for part in parts], axis=1)
            form = replace(form, per_tensor=False)
        return PlaneWeight(planes, scales, parts[0].K, replace(form, scale_dtype=scales.dtype))

    @property
    def N(self) -> int:
        """Outputs."""
        if self.format.layout == CODES:
            return self.planes.shape[0]
        return self.planes.shape[1] if self.format.per_tensor else self.scales.shape[1]

    @property
    def nbytes(self) -> int:
        """Stored bytes, padding included."""
        return self.planes.nbytes + self.scales.nbytes

    def check(self, name: str = "weight") -> None:
        """Raise InputError, naming `name`, unless the tensors of layout plain fit the contract."""
        form = self.format
        check_tensors(self.planes, self.scales, self.N, self.K, form.group_size, name, form.node_levels)

    def rows(self, index: slice | npt.NDArray[np.intp]) -> "PlaneWeight":
        """The outputs of `index`, in layout plain."""
        scales = self.scales if self.format.per_tensor else self.scales[:, index]
        return replace(self, planes=self.planes[:, index], scales=scales)

    def with_scales(self, scales: npt.NDArray[Any]) -> "PlaneWeight":
        """The same planes with other scales."""
        return replace(self, scales=scales, format=replace(self.format, scale_dtype=scales.dtype))

    def with_own_scales(self) -> "PlaneWeight":
        """The same weight with scales for each output, in layout plain."""
        if not self.format.per_tensor:
            return self
        scales = np.repeat(self.scales, self.N, axis=1)
        return replace(self, scales=scales, format=replace(self.format, per_tensor=False))

    def dequantize(self) -> npt.NDArray[np.float64]:
        """The weight [N, K]."""
        plain = self.to_layout(PLAIN)
        return dequantize(plain.planes, plain.scales, self.K, self.format.group_size, self.format.node_levels)

    def to_layout(self, name: str) -> "PlaneWeight":
        """The same weight in the layout called `name`, byte for byte. Raises InputError for tensors of other shapes.

        Only one step for all outputs is not kept: in blocks, and back from there, every output has its own.
        """
        if name == self.format.layout:
            return self
        sizes = (self.K, self.format.group_size, self.format.node_levels)
        plain = to_plain(self.format.layout, self.planes, self.scales, *sizes)
        planes, scales = to_layout(name, *plain, *sizes)
        per_tensor = self.format.per_tensor and not OP.layout_named(name).blocks
        return PlaneWeight(planes, scales, self.K, replace(self.format, layout=name, per_tensor=per_tensor))
