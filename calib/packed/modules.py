"""Modules of transformers' models whose weights are planes and scales, in memory as in the file.

A weight [N, K] has the tensors of a checkpoint, as buffers of the same names and types: planes, scales, input_order,
rotation_signs. With the transform R of the signs (calib/rotation.py) and the order o, which is that of R x:

    y[n] = sum over k of W[n, k] * (R x)[o[k]]

Products are in the type of x, or of autocast; a weight is made for each of them from scales in float32, at most
CHUNK_WEIGHTS of it at a time. `model.to(dtype)` changes all other tensors: scales keep the type they are stored in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from calib.quant_table import row_slices
from calib.rotation import transform
from calib.scale_parameters import code_values
from calib.student_weight import weight_of_planes
from dualbinary.checkpoint import MODULE_PARTS
from dualbinary.contract.weight import PlaneFormat

__all__ = ["PackedEmbedding", "PackedHead", "PackedLinear", "PackedWeight", "StoredWeight"]

_TYPES = {
    "U8": torch.uint8,
    "I8": torch.int8,
    "I32": torch.int32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
}


@dataclass(frozen=True)
class StoredWeight:
    """A weight as a checkpoint has it.

    Attributes:
        N, K: outputs and inputs.
        format: as config.json says it.
        block_size: of the rotation of its inputs; None where they are not rotated.
        parts: type, by its name in safetensors, and shape of each tensor, by the last part of its name.
    """

    N: int
    K: int
    format: PlaneFormat
    block_size: int | None
    parts: Mapping[str, tuple[str, tuple[int, ...]]]


class PackedWeight(nn.Module):
    """The tensors of one weight, empty on the meta device until they are loaded."""

    planes: Tensor
    scales: Tensor
    input_order: Tensor | None
    rotation_signs: Tensor | None
    like: Tensor

    def __init__(self, stored: StoredWeight, dtype: torch.dtype) -> None:
        """`dtype` is that of the model's other weights."""
        super().__init__()
        self.out_features, self.in_features = stored.N, stored.K
        self.format = replace(stored.format.for_inputs(stored.K), per_tensor=False)
        self.block_size = stored.block_size
        for part in MODULE_PARTS:
            kind, shape = stored.parts.get(part, (None, ()))
            empty = None if kind is None else torch.empty(shape, dtype=_TYPES[kind], device="meta")
            self.register_buffer(part, empty)
        # Has the model's type, and follows `model.to(dtype)`.
        self.register_buffer("like", torch.empty(0, dtype=dtype, device="meta"), persistent=False)

    @property
    def weight(self) -> Tensor:
        """The weight [N, K] that the planes stand for, dense, of inputs as they come; made at every access."""
        return self.dense(self.like.dtype)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """See `weight`."""
        rows = [self._unturned(self._rows(part, torch.float32)).to(dtype) for part in self._parts()]
        return torch.cat(rows)

    def looked_up(self, ids: Tensor) -> Tensor:
        """Rows [..., K] of token ids [...] in the model's type."""
        found, places = ids.to(self.planes.device).unique(return_inverse=True)
        return self._unturned(self._rows(found, torch.float32)).to(self.like.dtype)[places]

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The products [..., N] with x [..., K]."""
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        if self.rotation_signs is not None and self.block_size is not None:
            x = transform(x.float() * self.rotation_signs, self.block_size)
        if self.input_order is not None:
            x = x[..., self.input_order]
        x = x.to(dtype)
        parts = [functional.linear(x, self._rows(part, dtype)) for part in self._parts()]
        y = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return y if bias is None else y + bias.to(dtype)

    def extra_repr(self) -> str:
        """Size and format, for people who print the model."""
        return f"{self.in_features} -> {self.out_features}, {self.format}"

    def _parts(self) -> list[slice]:
        return list(row_slices(self.out_features, self.in_features))

    def _rows(self, rows: slice | Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of the weight as the planes have it."""
        planes = self.planes[:, rows]
        scales = self.scales if self.scales.shape[1] == 1 else self.scales[:, rows]
        values = code_values(scales).expand(-1, planes.shape[1], -1)
        return weight_of_planes(planes, values, self.in_features, self.format, dtype)

    def _unturned(self, rows: Tensor) -> Tensor:
        """Rows [.., K] of the weight for inputs as they come."""
        if self.input_order is not None:
            rows = torch.empty_like(rows).index_copy_(1, self.input_order.long(), rows)
        if self.rotation_signs is not None and self.block_size is not None:
            rows = transform(rows, self.block_size) * self.rotation_signs
        return rows

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PackedWeight":
        scales = self.scales
        super()._apply(fn, recurse)
        if self.scales.dtype != scales.dtype:
            moved = torch.empty_like(self.scales, dtype=scales.dtype) if scales.is_meta else scales
            self.scales = moved.to(self.scales.device)
        return self


class PackedLinear(PackedWeight):
    """A linear layer, or GPT-2's Conv1D, in the place of `original`."""

    def __init__(self, stored: StoredWeight, original: Any, dtype: torch.dtype) -> None:
        """`original` is on the meta device; its bias stays."""
        super().__init__(stored, dtype)
        self.original = type(original)
        self.bias: nn.Parameter | None
        self.register_parameter("bias", original.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x [..., K]."""
        return self.product(x, self.bias)


class PackedEmbedding(PackedWeight):
    """A table of rows by token id [V, H]; `scale` is what transformers' module multiplies them by, 1 for most."""

    def __init__(self, stored: StoredWeight, original: nn.Embedding, scale: float, dtype: torch.dtype) -> None:
        """`original` is on the meta device and only kept to be put back by `dequantize`."""
        super().__init__(stored, dtype)
        object.__setattr__(self, "original", original)  # no submodule, whose tensors would be asked of the file
        self.scale = scale

    def forward(self, ids: Tensor) -> Tensor:
        """The rows [..., H] of token ids [...]."""
        rows = self.looked_up(ids).to(ids.device)
        return rows if self.scale == 1 else rows * torch.tensor(self.scale, dtype=rows.dtype, device=rows.device)


class PackedHead(nn.Module):
    """A head that is tied to a packed embedding, and has no tensors of its own but a bias."""

    table: PackedEmbedding

    def __init__(self, table: PackedEmbedding, original: nn.Linear) -> None:
        super().__init__()
        object.__setattr__(self, "table", table)  # no submodule: its tensors are those of the embedding
        self.in_features, self.out_features = table.in_features, table.out_features
        self.bias: nn.Parameter | None
        self.register_parameter("bias", original.bias)

    @property
    def weight(self) -> Tensor:
        """The embedding's."""
        return self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., H]."""
        y = self.table.product(x.to(self.table.planes.device)).to(x.device)
        return y if self.bias is None else y + self.bias.to(y.dtype)
