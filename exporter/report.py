"""export_report.json: the quantized weights, their distance from the original, and the size of the file."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import onnx
import onnx_ir as ir

from dualbinary import OP
from dualbinary.contract.scale_codes import dtype_name
from dualbinary.contract.weight import PlaneFormat
from dualbinary.files.model_files import REPORT_VERSION
from dualbinary.metrics.formats import count_formats
from dualbinary.metrics.operations import Operations, operations
from dualbinary.metrics.statistics import PAPER_RULE, paper_flops
from exporter.graph.export_graph import ExportGraph, PlaneNode, VocabularyTable
from exporter.graph.layers import Linear
from exporter.graph.parameters import Parameters
from exporter.options import STOCK, ExportOptions
from exporter.stored.tensor_jobs import LayerStats

__all__ = ["export_report", "fit_notes", "table_notes"]

_LOST = 0.99  # relative squared error of weights that became zeros; of a fit in a single plane it is 0.4
_PAST_KEYS = {"Attention": 4, "GroupQueryAttention": 3}  # the inputs that are past keys


def export_report(
    graph: ExportGraph,
    written: onnx.ModelProto,
    parameters: Parameters,
    stats: Mapping[str, LayerStats],
    options: ExportOptions,
    data_bytes: int,
) -> dict[str, Any]:
    """The report as JSON values: of `written`, the model of the file; `stats` by module; `data_bytes` beside the model.

    Bits count planes and scales, and in the totals the signs of rotations, which layers share; sizes are bytes.
    `rotation` of a layer or table is the block size of that of its inputs, null where there is none. `options` has the
    format of a fit, or the default of a checkpoint, and the widest type of scales; what each layer has is in its row,
    and `formats` counts layers by format in words.
    `exact` tells of a layer of a plain directory whether its weights, rounded to the stored type, are the stored ones.
    scale_rounding_error is the relative squared error that rounding a checkpoint's scales to 8 bits made in its
    weights; null where they are as stored, and for a fit, whose relative_squared_error includes it.
    operations_per_token counts additions and multiplications as dualbinary/metrics/operations.py defines them.
    """
    nodes, tables = graph.nodes, graph.tables
    pairs = [(node, linear) for node in nodes for linear in node.linears]
    layers = [stats[linear.module] for _, linear in pairs]
    rows = [_layer_row(*pair, layer) for pair, layer in zip(pairs, layers, strict=True)]
    quantized = sum(row["weights"] for row in rows)
    counts = Operations.total(Operations(**row["operations_per_token"]) for row in rows)
    head_weights, attention_width = _head_weights(parameters, graph.head), _attention_width(graph.model)
    flops = paper_flops([layer.weight for layer in layers], head_weights, attention_width)
    table_rows = [_table_row(table) for table in tables]
    sign_bytes = sum(map(_bytes, graph.signs))
    plane_bytes = sum(_bytes(value) for node in nodes for value in node.values) + sign_bytes
    parameter_count = sum(tensor.numel() for tensor in parameters.unique())
    return {
        "report_version": REPORT_VERSION,
        "op": _operator(written, options),
        "model_type": parameters.source.model_type,
        "options": {**asdict(options), **_decided(options), **_stored_format(nodes, parameters)},
        "method": parameters.source.quantization.method if parameters.source.quantization else "fit",
        "totals": {
            "quantised_weights": quantized,
            "parameters": parameter_count,
            "bits_per_weight": 8 * plane_bytes / quantized if quantized else 0.0,
            "bits_per_parameter": 8 * data_bytes / parameter_count,
            "scale_rounding_error": _rounding_error(layers),
            "file_bytes": data_bytes,
            "plane_bytes": plane_bytes,
            "sign_bytes": sign_bytes,
            "rotated_layers": sum(row["rotation"] is not None for row in rows),
            "table_bytes": sum(row["bytes"] for row in table_rows),
            "source_bytes": parameters.source.stored_bytes,
            "nodes": len(written.graph.node),
            "operations_per_token": counts.to_dict(),
            "paper_flops": {"rule": PAPER_RULE, "full": flops.full, "quantised": flops.quantized},
        },
        "formats": count_formats(
            (_named_format(*pair, parameters), layer.weight.weights, layer.weight.stored_bits)
            for pair, layer in zip(pairs, layers, strict=True)
        ),
        "layers": rows,
        "tables": table_rows,
    }


def fit_notes(layers: Sequence[Mapping[str, Any]], options: ExportOptions) -> list[str]:
    """Sentences on the rows of a plain directory's layers: how many are exact, how many fitted, and which are lost."""
    notes = [
        f"{row['module']}: weights became zeros, as scales so small are zeros too; --scale-bits 32 has such scales"
        for row in layers
        if row["relative_squared_error"] > _LOST
    ]
    for exact in (True, False):
        rows = [row for row in layers if row["exact"] is exact]
        weights = sum(row["weights"] for row in rows)
        if not weights:
            continue
        bits = sum(row["bits_per_weight"] * row["weights"] for row in rows) / weights
        count = f"{len(rows)} of {len(layers)} layers"
        if exact:
            notes.append(f"{count} are stored exactly, at {bits:.3f} bits per weight")
            continue
        form = options.fit_form
        advice = "; for about 2.5 bits per weight use --calibrate fast|best [--text FILE], which trains them"
        if form.planes + form.offset < 4:
            advice = ": so few planes need training, expect text without sense; --calibrate fast trains them"
        if options.op in STOCK:  # which has no product of those planes
            advice = ""
        notes.append(f"{count} are fitted without data, {form.planes} planes at {bits:.3f} bits per weight{advice}")
    return notes


def table_notes(tables: Iterable[VocabularyTable], parameters: Parameters) -> list[str]:
    """Sentences on the vocabulary tables that a checkpoint stores in planes and the graph has in another form."""
    if parameters.source.quantization is None:
        return []
    return [
        f"{table.parameter}: stored anew in {table.bits} bits, from the checkpoint's "
        f"{parameters.stored_format(table.parameter).planes} planes"
        for table in tables
        if not table.stored and parameters.has_planes(table.parameter)
    ]


def _decided(options: ExportOptions) -> dict[str, Any]:
    """Options in whose place there is a default that depends on others."""
    return {
        "dtype": options.activations,
        "kv_cache": options.cache_type,
        "embedding_bits": options.table_bits,
    }


def _operator(model: onnx.ModelProto, options: ExportOptions) -> str:
    """The operator that multiplies, or unpacks what others multiply, with its version."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if options.op == "matmulnbits":
        return f"com.microsoft::MatMulNBits-{versions.get('com.microsoft', 1)}"
    if options.op == "dequantizelinear":
        return f"ai.onnx::DequantizeLinear-{versions['']}"
    return f"{OP.domain}::{OP.name}-{versions.get(OP.domain, 1)}"


def _layer_row(node: PlaneNode, linear: Linear, layer: LayerStats) -> dict[str, Any]:
    form = node.plane_format
    return {
        "module": linear.module,
        "N": linear.N,
        "K": linear.K,
        "planes": form.planes,
        "group_size": form.group_size,
        "levels": form.levels,
        "zero": form.zero if form.even and not form.offset else None,
        "offset": form.offset,
        "scale_type": dtype_name(form.scale_dtype),
        "exact": layer.exact,
        "rotation": None if node.rotation is None else node.rotation.block_size,
        "node": str(node.planes.name).removesuffix(".planes"),
        **layer.weight.to_dict(),
        "operations_per_token": operations(linear.N, linear.K, form, layer.weight.ones).to_dict(),
        "scale_rounding_error": _rounding_error([layer]),
    }


def _table_row(table: VocabularyTable) -> dict[str, Any]:
    stored = sum(map(_bytes, table.values))
    blocks = "blocks" if table.group_size else "float"
    weights = table.rows * table.width
    return {
        "parameter": table.parameter,
        "bits": table.bits,
        "levels": table.plane_format.levels if table.plane_format is not None else blocks,
        "group_size": table.group_size,
        "stored": table.stored,
        "rotation": None if table.rotation is None else table.rotation.block_size,
        "weights": weights,
        "bytes": stored,
        "bits_per_weight": 8 * stored / weights,
    }


def _stored_format(nodes: tuple[PlaneNode, ...], parameters: Parameters) -> dict[str, Any]:
    """Planes, group size, offset and bits of a scale as in the file, whether asked for, fitted by default or stored."""
    if not nodes:
        return {}
    scale_bits = max(8 * node.plane_format.scale_dtype.itemsize for node in nodes)
    stored = parameters.source.quantization
    if stored is not None:
        sizes = {"planes": stored.planes, "group_size": stored.group_size, "offset": stored.has_offset}
        return {**sizes, "scale_bits": scale_bits}
    # Short rows have short groups.
    widest = max((node.plane_format for node in nodes), key=lambda plane_format: plane_format.group_size)
    sizes = {"planes": widest.planes, "group_size": widest.group_size, "offset": widest.offset}
    return {**sizes, "scale_bits": scale_bits}


def _named_format(node: PlaneNode, linear: Linear, parameters: Parameters) -> PlaneFormat:
    """The node's format with the group size as a checkpoint says it, which can be a group a row of any length."""
    if parameters.source.quantization is None:
        return node.plane_format
    return replace(node.plane_format, group_size=parameters.stored_format(linear.parameter).group_size)


def _rounding_error(layers: Iterable[LayerStats]) -> float | None:
    """Sum of squared errors over sum of squares; None where no scales were rounded."""
    sums = [layer.rounding for layer in layers if layer.rounding is not None]
    if not sums:
        return None
    error, norm = (sum(part) for part in zip(*sums, strict=True))
    return error / norm if norm else 0.0


def _head_weights(parameters: Parameters, head: VocabularyTable | None) -> int:
    """Weights of the head, which the rule counts at full precision."""
    return parameters[head.parameter].numel() if head is not None else 0


def _attention_width(model: ir.Model) -> int:
    """Sum over the layers of heads * head size."""
    width = 0
    for node in model.graph:
        place = _PAST_KEYS.get(node.op_type)
        if place is None or len(node.inputs) <= place:
            continue
        heads = node.attributes.get("num_heads") or node.attributes.get("q_num_heads")
        past = node.inputs[place]
        if heads is not None and past is not None and past.shape is not None:
            width += heads.as_int() * int(past.shape[3])  # type: ignore[arg-type]
    return width


def _bytes(value: ir.Value) -> int:
    assert value.const_value is not None
    return value.const_value.nbytes
