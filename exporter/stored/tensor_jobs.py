"""Jobs that compute the data file: each fills some initializers of the finished graph, independently of the others.

Jobs run on worker threads, a few ahead of the writer, and their results are written in order, so memory holds a few
layers whatever the model's size.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch

from dualbinary import OP, InputError
from dualbinary.contract.rotation import Rotation
from dualbinary.contract.scale_codes import BFLOAT16, round_scales, scale_values
from dualbinary.contract.weight import PlaneFormat, PlaneWeight
from dualbinary.fitting.closed_form import fit
from dualbinary.fitting.exact import exact_weight
from dualbinary.metrics.statistics import WeightStatistics, rounding_error, weight_statistics
from exporter.graph.export_graph import ExportGraph, PlaneNode, StockNode, VocabularyTable
from exporter.graph.layers import Linear
from exporter.graph.parameters import Parameters
from exporter.graph.plane_formats import ExactWeights, stored_type
from exporter.graph.stock_forms import stock_tensors
from exporter.graph.values import is_parameter
from exporter.stored.vocabulary_tables import quantize_table, require_finite

__all__ = ["LayerStats", "TensorJob", "plane_arrays", "run_jobs", "tensor_jobs"]

_ROW_ELEMENTS = 1 << 20  # compared at a time


@dataclass(frozen=True)
class LayerStats:
    """Statistics of one layer for the report.

    Attributes:
        weight: of the planes and scales in the file.
        rounding: sums of (w - w')^2 and of w^2 over the weights w of a checkpoint whose scales were rounded to 8 bits.
        exact: of a plain directory, whether planes and scales, rounded to the stored type, are the stored weights.
    """

    weight: WeightStatistics
    rounding: tuple[float, float] | None = None
    exact: bool | None = None


@dataclass(frozen=True)
class TensorJob:
    """The computation of some initializers.

    Attributes:
        values: the initializers.
        work: number of weights read, for progress.
        compute: returns the arrays in the order of `values`.
    """

    values: tuple[ir.Value, ...]
    work: int
    compute: Callable[[], list[np.ndarray]]


def tensor_jobs(graph: ExportGraph, parameters: Parameters, stats: dict[str, LayerStats]) -> list[TensorJob]:
    """Jobs for all initializers that wait for data, in graph order. They enter each layer in `stats`, by module."""
    by_value: dict[ir.Value, TensorJob] = {}
    for node in graph.nodes:
        by_value |= dict.fromkeys(node.values, _plane_job(node, graph, parameters, stats))
    for table in graph.tables:
        by_value |= dict.fromkeys(table.values, _table_job(table, parameters))
    jobs: dict[TensorJob, None] = {}  # an ordered set
    for value in filter(is_parameter, graph.model.graph.initializers.values()):
        jobs[by_value.get(value) or _parameter_job(value, graph, parameters)] = None
    return list(jobs)


def run_jobs(jobs: Iterable[TensorJob], threads: int) -> Iterator[tuple[TensorJob, list[np.ndarray]]]:
    """Compute jobs on `threads` threads and yield their results in order; at most as many again wait to be written."""
    pending: list[tuple[TensorJob, Future[list[np.ndarray]]]] = []
    with ThreadPoolExecutor(threads) as pool:
        try:
            for job in jobs:
                pending.append((job, pool.submit(job.compute)))
                if len(pending) > threads:
                    first, future = pending.pop(0)
                    yield first, future.result()
            while pending:
                first, future = pending.pop(0)
                yield first, future.result()
        finally:
            for _, future in pending:
                future.cancel()


def _plane_job(node: PlaneNode, graph: ExportGraph, parameters: Parameters, stats: dict[str, LayerStats]) -> TensorJob:
    def compute() -> list[np.ndarray]:
        parts = []
        for linear in node.linears:
            given = linear, node.plane_format, parameters, graph.exact, node.rotation
            weight, stats[linear.module] = _layer_weight(*given)
            parts.append(weight)
        weight = PlaneWeight.concatenate(parts)
        if node.stock is not None:
            return _stock_arrays(weight, node.stock)
        return plane_arrays(weight, node.plane_format.layout)

    return TensorJob(node.values, sum(linear.N * linear.K for linear in node.linears), compute)


def plane_arrays(weight: PlaneWeight, layout: str) -> list[np.ndarray]:
    """Planes and scales as the file has them, from those of layout plain."""
    stored = weight.to_layout(layout)
    scales = stored.scales
    return [stored.planes, scales.view(ml_dtypes.bfloat16) if scales.dtype == BFLOAT16 else scales]


def _stock_arrays(weight: PlaneWeight, stock: StockNode) -> list[np.ndarray]:
    """The contents of `stock.values`. Raises InputError where the type of activations does not hold a scale."""
    tensors = stock_tensors(weight, stock.form)
    arrays: list[np.ndarray] = []
    for codes, scales, points in zip(tensors.codes, tensors.scales, tensors.zero_points, strict=True):
        arrays += [codes, scales, *([] if points is None else [points])]
    if tensors.offsets is not None:
        arrays.append(tensors.offsets.T)
    typed = []
    for value, array in zip(stock.values, arrays, strict=True):
        assert value.dtype is not None
        with np.errstate(over="ignore"):
            typed.append(require_finite(array.astype(value.dtype.numpy(), copy=False), str(value.name)))
    return typed


def _table_job(table: VocabularyTable, parameters: Parameters) -> TensorJob:
    def compute() -> list[np.ndarray]:
        form = table.plane_format
        if form is None or not table.stored:
            return quantize_table(table, parameters)
        weight = parameters.stored_weight(table.parameter).with_own_scales()
        return plane_arrays(_with_scale_dtype(weight, form.scale_dtype, table.parameter), form.layout)

    return TensorJob(table.values, parameters[table.parameter].numel(), compute)


def _parameter_job(value: ir.Value, graph: ExportGraph, parameters: Parameters) -> TensorJob:
    """The job of a parameter that stays in full precision, or of the joined biases of merged layers."""
    name = str(value.name)
    parts = graph.joined_biases.get(name, (name,))
    for part in parts:
        if parameters.source.quantization is not None and parameters.has_planes(part):
            raise InputError(
                f"{part}: the checkpoint stores it in planes, but the graph of a {parameters.source.model_type} does "
                "not multiply with it; list the module in modules_to_not_convert"
            )
    dtype = torch.float16 if value.dtype == ir.DataType.FLOAT16 else torch.float32

    def compute() -> list[np.ndarray]:
        return [require_finite(torch.cat([parameters.read(part, dtype) for part in parts]).numpy(), name)]

    return TensorJob((value,), sum(parameters[part].numel() for part in parts), compute)


def _layer_weight(
    linear: Linear, plane_format: PlaneFormat, parameters: Parameters, exact: ExactWeights, rotation: Rotation | None
) -> tuple[PlaneWeight, LayerStats]:
    """The weight of a layer in layout plain, stored in a checkpoint, packed exactly or fitted, and its statistics.

    One that is fitted is so in the basis of `rotation`, that of the node's inputs.
    """
    plain = replace(plane_format, layout=OP.layouts[0].name)
    if not parameters.has_planes(linear.parameter):
        return _plain_weight(linear, plain, parameters, exact, rotation)
    stored = parameters.stored_weight(linear.parameter)
    if not plain.per_tensor:
        stored = stored.with_own_scales()
    weight = _with_scale_dtype(stored, plain.scale_dtype, linear.module)
    rounded = weight is not stored and plain.scale_dtype == np.uint8
    rounding = rounding_error(stored, weight) if rounded else None
    return weight, LayerStats(weight_statistics(weight), rounding)


def _plain_weight(
    linear: Linear, form: PlaneFormat, parameters: Parameters, exact: ExactWeights, rotation: Rotation | None
) -> tuple[PlaneWeight, LayerStats]:
    """The weight of a layer of a plain directory: exact in its form where that was found to hold it, or fitted."""
    values = parameters.read(linear.parameter, torch.float32).numpy()
    if rotation is not None:
        values = rotation.rotated(values)
    kind = stored_type(linear.parameter, parameters)
    weight = None
    if linear.parameter in exact and kind is not None:
        weight = exact.take(linear.parameter, form) or exact_weight(values, form, kind)
    if weight is None:
        result = fit(values, form, name=linear.parameter)
        errors = {"squared_error": result.squared_error, "squared_norm": result.squared_norm}
        return result.weight, LayerStats(weight_statistics(result.weight, **errors), exact=False)
    error = norm = 0.0
    for begin in range(0, linear.N, step := max(1, _ROW_ELEMENTS // linear.K)):
        rows = slice(begin, begin + step)
        error += float(np.square(weight.rows(rows).dequantize() - values[rows]).sum())
        norm += float(np.square(values[rows], dtype=np.float64).sum())
    return weight, LayerStats(weight_statistics(weight, squared_error=error, squared_norm=norm), exact=True)


def _with_scale_dtype(weight: PlaneWeight, dtype: np.dtype[Any], module: str) -> PlaneWeight:
    """The weight with scales of another type: rounded to uint8, exact in float32; itself where it has that type."""
    if weight.scales.dtype == dtype:
        return weight
    values = scale_values(weight.scales)
    return weight.with_scales(round_scales(values, module) if dtype == np.uint8 else values.astype(dtype))
