"""What the data file holds: for every parameter of the finished graph a piece that can be made on its own.

A piece knows which initializers it fills and how to compute them. Pieces are computed a few ahead on worker threads and
written in order, so memory holds a few layers whatever the model's size.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
import torch

from dualbinary import OP
from dualbinary.checkpoint import load_module
from dualbinary.contract.scale_codes import round_scales
from dualbinary.contract.weight import PlaneFormat, PlaneWeight
from dualbinary.fitting.closed_form import fit
from dualbinary.metrics import WeightStatistics, rounding_error, weight_statistics
from exporter.graph.passes.linear import Linear, PlaneNode
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
        parts = [_weight_of(linear, node.format, weights, figures) for linear in node.linears]
        stored = PlaneWeight.concatenate(parts).to_layout(node.format.layout)
        return [stored.planes, stored.scales]

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


def _weight_of(linear: Linear, plane_format: PlaneFormat, weights: Weights, figures: Figures) -> PlaneWeight:
    """The weight of one layer in layout plain: stored in a checkpoint, or fitted."""
    plain = replace(plane_format, layout=OP.layouts[0].name)
    error = norm = None
    if weights.has_planes(linear.parameter):
        stored = _stored_weight(linear, weights)
        if plain.scale_dtype == np.uint8:
            weight = stored.with_scales(round_scales(stored.scales, linear.module))
            figures.rounding[linear.module] = rounding_error(stored, weight)
        else:
            weight = stored.with_scales(stored.scales.astype(plain.scale_dtype, copy=False))
    else:
        result = fit(weights.read(linear.parameter, torch.float32).numpy(), plain, name=linear.parameter)
        weight, error, norm = result.weight, result.squared_error, result.squared_norm
    figures.statistics[linear.module] = weight_statistics(weight, squared_error=error, squared_norm=norm)
    return weight


def _stored_weight(linear: Linear, weights: Weights) -> PlaneWeight:
    """Rows of the checkpoint's planes in the order in which the graph wants them."""
    source = weights.source
    assert source.quantization is not None
    parts = []
    for origin in weights.origin(linear.parameter):
        module = origin.name.removesuffix(".weight")
        n, k, _ = weights.linears[module]
        whole = load_module(source.tensors, module, n, k, source.quantization.plane_format)
        parts.append(whole.rows(origin.rows.numpy()))
    return PlaneWeight.concatenate(parts)
