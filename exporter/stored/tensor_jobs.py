"""What the data file holds: for every parameter of the finished graph a piece that can be made on its own.

A piece knows which initializers it fills and how to compute them. Pieces are computed a few ahead on worker threads and
written in order, so memory holds a few layers whatever the model's size.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import torch

from dualbinary import to_layout
from dualbinary.checkpoint import load_module
from dualbinary.contract.scale_codes import round_scales
from dualbinary.fitting.fit import fit
from dualbinary.metrics.statistics import WeightStatistics, rounding_error, weight_statistics
from exporter.graph.passes.linear import Linear, PlaneFormat, PlaneNode
from exporter.graph.passes.vocabulary import Table
from exporter.source.parameters import Weights
from exporter.stored.vocabulary_tables import finite, quantized_table

__all__ = ["Figures", "Piece", "computed", "parameter_piece", "plane_piece", "table_piece"]


@dataclass(frozen=True)
class Figures:
    """What there is to report of each layer by its module; filled in while pieces are computed.

    statistics: of the planes and scales in the file.
    rounding: where a checkpoint's scales were rounded to 8 bits, the sums of (w - w')^2 and of w^2 over its weights w.
    """

    statistics: dict[str, WeightStatistics] = field(default_factory=dict)
    rounding: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """Initializers that are computed together.

    work: number of weights read, for progress.
    compute: returns the arrays in the order of `values`.
    """

    name: str
    values: tuple[ir.Value, ...]
    work: int
    compute: Callable[[], list[np.ndarray]]


def computed(pieces: Iterable[Piece], threads: int) -> Iterator[tuple[Piece, list[np.ndarray]]]:
    """Compute `pieces` on `threads` threads and yield them in order; as many again wait for the consumer at most."""
    pending: list[tuple[Piece, Future[list[np.ndarray]]]] = []
    with ThreadPoolExecutor(threads) as pool:
        try:
            for piece in pieces:
                pending.append((piece, pool.submit(piece.compute)))
                if len(pending) > threads:
                    first, future = pending.pop(0)
                    yield first, future.result()
            while pending:
                first, future = pending.pop(0)
                yield first, future.result()
        finally:
            for _, future in pending:
                future.cancel()


def plane_piece(node: PlaneNode, weights: Weights, figures: Figures) -> Piece:
    """Planes and scales of one node: fitted, or taken from the checkpoint. What is to be reported goes to `figures`."""

    def compute() -> list[np.ndarray]:
        parts = [_planes_of(linear, node.format, weights, figures) for linear in node.linears]
        planes, scales = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
        return list(to_layout(node.layout.name, planes, scales, node.linears[0].K, node.format.group_size))

    work = sum(linear.N * linear.K for linear in node.linears)
    return Piece(str(node.planes.name), (node.planes, node.scales), work, compute)


def table_piece(table: Table, weights: Weights) -> Piece:
    """A vocabulary table."""
    values = (*table.codes, table.scales) if table.scales is not None else table.codes
    work = int(weights[table.parameter].numel())
    return Piece(table.parameter, values, work, lambda: quantized_table(table, weights))


def parameter_piece(value: ir.Value, weights: Weights, joined: Mapping[str, tuple[str, ...]]) -> Piece:
    """A parameter that stays in full precision, or the joined biases of merged layers."""
    name = str(value.name)
    parts = joined.get(name, (name,))
    dtype = torch.float16 if value.dtype == ir.DataType.FLOAT16 else torch.float32

    def compute() -> list[np.ndarray]:
        return [finite(torch.cat([weights.read(part, dtype) for part in parts]).numpy(), name)]

    return Piece(name, (value,), sum(weights[part].numel() for part in parts), compute)


def _planes_of(
    linear: Linear, layout: PlaneFormat, weights: Weights, figures: Figures
) -> tuple[np.ndarray, np.ndarray]:
    scale_dtype = layout.scale_dtype.numpy()
    error = norm = None
    if weights.has_planes(linear.parameter):
        planes, stored = _stored_planes(linear, weights)
        if scale_dtype == np.uint8:
            scales = round_scales(stored, linear.module)
            figures.rounding[linear.module] = rounding_error(planes, stored, scales, linear.K, layout.group_size)
        else:
            scales = stored.astype(scale_dtype, copy=False)
    else:
        fitted = fit(
            weights.read(linear.parameter, torch.float32).numpy(),
            planes=layout.planes,
            group_size=layout.group_size,
            offset=layout.scale_rows > layout.planes,
            scale_dtype=scale_dtype,
            name=linear.parameter,
        )
        planes, scales = fitted.planes, fitted.scales
        error, norm = fitted.squared_error, fitted.squared_norm
    figures.statistics[linear.module] = weight_statistics(
        planes, scales, linear.K, layout.group_size, squared_error=error, squared_norm=norm
    )
    return planes, scales


def _stored_planes(linear: Linear, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the checkpoint's planes in the order in which the graph wants them."""
    source = weights.source
    assert source.quantization is not None
    planes, scales = [], []
    for origin in weights.origin(linear.parameter):
        module = origin.name.removesuffix(".weight")
        n, k, _ = weights.linears[module]
        all_planes, all_scales = load_module(source.tensors, module, n, k, source.quantization.group_of(k))
        rows = origin.rows.numpy()
        planes.append(all_planes[:, rows])
        scales.append(all_scales[:, rows])
    return np.concatenate(planes, axis=1), np.concatenate(scales, axis=1)
