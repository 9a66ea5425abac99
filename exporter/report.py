"""export_report.json: what was quantized, how far it is from the original, and what the file costs."""

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx_ir as ir

from dualbinary import OP
from dualbinary.metrics import PAPER_RULE, Operations, operations, paper_flops
from exporter.graph.passes.linear import Linear, PlaneNode
from exporter.graph.passes.vocabulary import Table
from exporter.graph.rewrite import Rewritten
from exporter.options import ExportOptions
from exporter.source.parameters import Weights
from exporter.stored.tensor_jobs import Figures

__all__ = ["REPORT_VERSION", "export_report"]

REPORT_VERSION = 1


def export_report(
    model: ir.Model,
    weights: Weights,
    rewritten: Rewritten,
    figures: Figures,
    options: ExportOptions,
    data_path: Path,
) -> dict[str, Any]:
    """The report as JSON values. Bits count planes and scales; sizes are bytes.

    scale_rounding_error is the relative squared error that rounding a checkpoint's scales to 8 bits made in its
    weights; null where they are as stored, and for a fit, whose relative_squared_error has all of it.
    operations_per_token counts additions and multiplications as dualbinary/metrics/operations.py defines them.
    """
    nodes, tables = rewritten.nodes, rewritten.tables
    rows, counts = [], []
    for node in nodes:
        for linear in node.linears:
            row = {"module": linear.module, "N": linear.N, "K": linear.K, "group_size": node.format.group_size}
            row |= {"node": str(node.planes.name).removesuffix(".planes")}
            row |= figures.statistics[linear.module].to_dict()
            rounding = [figures.rounding[linear.module]] if linear.module in figures.rounding else []
            counts.append(_operations(linear, node, figures))
            row |= {"operations_per_token": counts[-1].to_dict()}
            rows.append({**row, "scale_rounding_error": _relative_error(rounding)})
    quantized = sum(row["weights"] for row in rows)
    flops = paper_flops(figures.statistics.values(), _head_weights(weights, tables), _attention_width(model))
    table_rows = [
        {
            "parameter": table.parameter,
            "bits": table.bits,
            "block_size": table.block_size,
            "weights": int(weights[table.parameter].numel()),
            "bytes": sum(_bytes(v) for v in (*table.codes, table.scales) if v is not None),
        }
        for table in tables
    ]
    plane_bytes = sum(_bytes(node.planes) + _bytes(node.scales) for node in nodes)
    parameters = sum(t.numel() for t in weights.unique())
    data_bytes = data_path.stat().st_size
    return {
        "report_version": REPORT_VERSION,
        "op": f"{OP.domain}::{OP.name}-{OP.version}",
        "model_type": weights.source.model_type,
        "options": {**asdict(options), "dtype": options.activations, **_format(nodes, weights)},
        "method": weights.source.quantization.method if weights.source.quantization else "fit",
        "totals": {
            "quantised_weights": quantized,
            "parameters": parameters,
            "bits_per_weight": 8 * plane_bytes / quantized if quantized else 0.0,
            "bits_per_parameter": 8 * data_bytes / parameters,
            "scale_rounding_error": _relative_error(figures.rounding.values()),
            "file_bytes": data_bytes,
            "plane_bytes": plane_bytes,
            "table_bytes": sum(row["bytes"] for row in table_rows),
            "source_bytes": weights.source.stored_bytes,
            "nodes": sum(1 for _ in model.graph),
            "operations_per_token": Operations.total(counts).to_dict(),
            "paper_flops": {"rule": PAPER_RULE, "full": flops.full, "quantised": flops.quantized},
        },
        "layers": rows,
        "tables": table_rows,
    }


def _operations(linear: Linear, node: PlaneNode, figures: Figures) -> Operations:
    return operations(linear.N, linear.K, node.format, figures.statistics[linear.module].ones)


def _format(nodes: tuple[PlaneNode, ...], weights: Weights) -> dict[str, Any]:
    """Planes, group size, offset and bits of a scale as in the file, whether asked for, fitted by default or stored."""
    if not nodes:
        return {}
    stored = weights.source.quantization
    widest = max((node.format for node in nodes), key=lambda form: form.group_size)  # short rows have short groups
    return {
        "planes": widest.planes,
        "group_size": stored.group_size if stored is not None else widest.group_size,
        "offset": widest.offset,
        "scale_bits": 8 * widest.scale_dtype.itemsize,
    }


def _relative_error(sums: Collection[tuple[float, float]]) -> float | None:
    """Sum of squared errors over sum of squares; None where there is nothing to say."""
    if not sums:
        return None
    error, norm = (sum(part) for part in zip(*sums, strict=True))
    return error / norm if norm else 0.0


def _head_weights(weights: Weights, tables: tuple[Table, ...]) -> int:
    """Weights of the head, which the rule counts at full precision; a tied head is the only table."""
    return int(weights[tables[-1].parameter].numel()) if tables else 0


def _attention_width(model: ir.Model) -> int:
    """Sum over the layers of heads * head size."""
    width = 0
    for value in model.graph.inputs:
        if str(value.name).endswith(".key") and value.shape is not None:
            node = next((usage.node for usage in value.uses()), None)
            heads = node.attributes.get("num_heads") or node.attributes.get("q_num_heads") if node is not None else None
            if heads is not None:
                width += heads.as_int() * int(value.shape[3])  # type: ignore[arg-type]
    return width


def _bytes(value: ir.Value) -> int:
    assert value.const_value is not None
    return value.const_value.nbytes
