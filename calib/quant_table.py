"""QuantTable: a vocabulary table of the student in planes, beside the full-precision one that the teacher has.

A table [V, H] is the token embedding, the head, or both where they are tied. Like a QuantLinear it has two weights, and
`full_precision(model)` decides between them. It is the largest tensor of its model, so nothing here holds it in float32
but the gradient of a head: an embedding's rows are made as they are looked up, and a head's weight is made once in the
type of the products, until its scales change.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from calib.layers import QuantLinear
from calib.scale_parameters import to_scales
from calib.student_weight import weight_of_planes
from dualbinary.contract.weight import PlaneFormat

__all__ = ["QuantTable", "row_slices"]

CHUNK_WEIGHTS = 1 << 22  # of a table in float32 at a time


class QuantTable(QuantLinear):
    """The quantized form of a table; `weight` is the model's own parameter."""

    def __init__(self, name: str, weight: nn.Parameter, plane_format: PlaneFormat, *, heads: bool) -> None:
        """`weight` is loaded and on its device; `heads` says that the table is that of the head."""
        super().__init__(name, weight, None, plane_format)
        self.weight = weight
        self.heads = heads
        self.hooks: list[RemovableHandle] = []
        self._made: tuple[object, Tensor] | None = None
        self._gradient: Tensor | None = None

    def rows(self, ids: Tensor) -> Tensor:
        """The student's rows float32 [..., H] of token ids [...], differentiable."""
        assert self.planes is not None
        found, places = ids.unique(return_inverse=True)
        planes, scales = self.planes[:, found], self.stored_scales[:, found]
        values = weight_of_planes(planes, scales, self.in_features, self.format)
        return (values if self.rotation is None else self.rotation.undo(values))[places]

    @torch.no_grad()
    def whole(self, dtype: torch.dtype) -> Tensor:
        """The student's table [V, H] in `dtype`, in its own basis, kept until its scales or planes are others."""
        assert self.planes is not None
        state = (id(self.scales), self.scales._version, id(self.planes), dtype)
        if self._made is None or self._made[0] != state:
            self._made = None  # before a second one is made
            table = torch.empty(self.weight.shape, dtype=dtype, device=self.scales.device)
            for rows in row_slices(*table.shape):
                planes, scales = self.planes[:, rows], to_scales(self.format, self.scales[:, rows])
                table[rows] = weight_of_planes(planes, scales, self.in_features, self.format, dtype)
            self._made = state, table
        return self._made[1]

    def product(self, hidden: Tensor) -> Tensor:
        """The products [t, V] of hidden states [t, H], differentiable in them.

        Where scales train, a backward pass adds to the gradient of the table, which `settle` hands to them.
        """
        inputs = self.rotate(hidden).to(hidden.dtype)
        return _Product.apply(inputs, self.whole(hidden.dtype), self if self.scales.requires_grad else None)

    @torch.no_grad()
    def collect(self, incoming: Tensor, hidden: Tensor) -> None:
        """Add the gradient of the table for the gradient [t, V] of products with `hidden` [t, H]."""
        if self._gradient is None:
            self._gradient = torch.zeros(self.weight.shape, device=hidden.device)
        for rows in row_slices(*self._gradient.shape):
            self._gradient[rows] += incoming[:, rows].T @ hidden

    def settle(self, factor: float) -> None:
        """Add `factor` times the collected gradient to that of the scales, and begin anew."""
        gradient, planes = self._gradient, self.planes
        if gradient is None or planes is None:
            return
        if self.scales.grad is None:
            self.scales.grad = torch.zeros_like(self.scales)
        for rows in row_slices(*gradient.shape):
            scales = self.scales[:, rows].detach().requires_grad_()
            made = weight_of_planes(planes[:, rows], to_scales(self.format, scales), self.in_features, self.format)
            (found,) = torch.autograd.grad(made, scales, gradient[rows] * factor)
            self.scales.grad[:, rows] += found
        gradient.zero_()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, table: QuantTable | None) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.table = table
        return functional.linear(hidden, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight = ctx.saved_tensors
        if ctx.table is not None:
            ctx.table.collect(incoming, hidden)
        return incoming @ weight, None, None


def row_slices(rows: int, width: int) -> Iterator[slice]:
    """Slices of the rows of a table [rows, width], few enough at a time for float32."""
    step = max(1, CHUNK_WEIGHTS // width)
    return (slice(begin, min(begin + step, rows)) for begin in range(0, rows, step))
