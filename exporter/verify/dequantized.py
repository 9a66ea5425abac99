"""A full-precision model directory with the weights that an exported file holds.

Planes, scales and tables are read from the file, dequantized and put in the place of the weights that they stand for.
All else is that of the original directory, so only the graph and the arithmetic can differ.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from safetensors.torch import save_file

from dualbinary import OP
from dualbinary.checkpoint import CONFIG_FILE, INDEX_FILE, MODULE_PARTS
from dualbinary.checkpoint.text_part import read_config
from dualbinary.contract.scale_codes import BFLOAT16
from dualbinary.contract.weight import PlaneWeight
from exporter.dequantized_products import packed_inputs
from exporter.graph.export_graph import PlaneNode, VocabularyTable
from exporter.graph.stock_forms import StockTensors, dequantize_stock
from exporter.pipeline import ExportResult
from exporter.source.lazy_tensor import RowOrigin
from exporter.stored.vocabulary_tables import dequantize_table

__all__ = ["write_dequantized"]

_ROWS = 512  # dequantized at a time
_SHARD_BYTES = 1 << 30

# Rows of a stored tensor that the export quantized, and a function that dequantizes them as the file has them, float32
# [rows, K].
_Rows = tuple[RowOrigin, Callable[[], np.ndarray]]


def write_dequantized(result: ExportResult, out: Path, directory: Path) -> None:
    """Write to `directory` what `out` stands for, with the config.json of the original as it is on disk."""
    source, copies = result.parameters.source, result.parameters.copies
    config = read_config(source.directory)
    config.pop("quantization_config", None)
    (directory / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    replaced = _replaced_rows(result, out)
    quantized = tuple(f".{part}" for part in MODULE_PARTS) if source.quantization is not None else ()
    # Copies of a tied embedding stay out, as they would untie it.
    names = [name for name in source.tensors if not (quantized and name.endswith(quantized)) and name not in copies]
    names += [name for name in replaced if name not in source.tensors]
    weight_map: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    for index, name in enumerate(names):
        shard[name] = _dequantized(result, name, replaced.get(name, []))
        if sum(tensor.nbytes for tensor in shard.values()) > _SHARD_BYTES or index == len(names) - 1:
            file = f"model-{index:05d}.safetensors"
            save_file(shard, directory / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(shard, file)
            shard = {}
    index_file = {"metadata": {}, "weight_map": weight_map}
    (directory / INDEX_FILE).write_text(json.dumps(index_file), encoding="utf-8")


def _replaced_rows(result: ExportResult, out: Path) -> dict[str, list[_Rows]]:
    """The quantized rows of every stored tensor, by its name."""
    graph = ir.load(out).graph
    stored = {**graph.initializers, **packed_inputs(graph)}
    replaced: dict[str, list[_Rows]] = defaultdict(list)

    def add(parameter: str, read: Callable[[slice], np.ndarray]) -> None:
        begin = 0
        for origin in result.parameters.origins(parameter):
            rows = slice(begin, begin + len(origin.rows))
            replaced[origin.name].append((origin, partial(read, rows)))
            begin = rows.stop

    for node in result.graph.nodes:
        begin = 0
        for linear in node.linears:
            values = [stored[str(value.name)] for value in node.values]
            add(linear.parameter, partial(_linear_rows, node, values, begin))
            begin += linear.N
    for table in result.graph.tables:
        add(table.parameter, partial(_table_rows, table, [stored[str(value.name)] for value in table.values]))
    return replaced


def _linear_rows(node: PlaneNode, values: list[ir.Value], first: int, rows: slice) -> np.ndarray:
    """Rows of the layer that begins at row `first` of the node: what multiplies its inputs, in their own order."""
    stored = _stored_rows(node, values, first, rows)
    if node.input_order is not None:
        ordered = np.empty_like(stored)
        ordered[:, node.input_order] = stored
        stored = ordered
    return stored if node.rotation is None else node.rotation.unrotated(stored)


def _stored_rows(node: PlaneNode, values: list[ir.Value], first: int, rows: slice) -> np.ndarray:
    if node.stock is not None:
        return _stock_rows(node, [_array(value) for value in values], slice(first + rows.start, first + rows.stop))
    planes, scales = map(_array, values)
    if scales.dtype.name == "bfloat16":
        scales = scales.view(BFLOAT16)
    stored = PlaneWeight(planes, scales, node.linears[0].K, node.plane_format)
    weight = stored.to_layout(OP.layouts[0].name).rows(slice(first + rows.start, first + rows.stop))
    parts = (weight.rows(slice(begin, begin + _ROWS)) for begin in range(0, weight.N, _ROWS))
    return np.concatenate([part.dequantize().astype(np.float32) for part in parts])


def _stock_rows(node: PlaneNode, arrays: list[np.ndarray], rows: slice) -> np.ndarray:
    assert node.stock is not None
    form, rest = node.stock.form, list(arrays)
    offsets = rest.pop().T[rows] if form.centre is not None else None
    tensors = StockTensors([], [], [], offsets, node.plane_format.group_size)
    for part in form.parts:
        tensors.codes.append(rest.pop(0)[rows])
        tensors.scales.append(rest.pop(0)[rows])
        tensors.zero_points.append(None if form.is_default(part) else rest.pop(0)[rows])
    return dequantize_stock(tensors, form, node.linears[0].K).astype(np.float32)


def _table_rows(table: VocabularyTable, values: list[ir.Value], rows: slice) -> np.ndarray:
    stored = dequantize_table(table, [_array(value) for value in values], rows)
    return stored if table.rotation is None else table.rotation.unrotated(stored)


def _array(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


def _dequantized(result: ExportResult, name: str, replacements: list[_Rows]) -> torch.Tensor:
    parameters = result.parameters
    if name in parameters.source.tensors:
        tensor = parameters.source.read(name)
        if not replacements:
            return tensor
        tensor = tensor.float()
    else:
        N, K, transposed = parameters.modules[name.removesuffix(".weight")]
        tensor = torch.zeros((K, N) if transposed else (N, K))
    for origin, read in replacements:
        origin.matrix_of(tensor)[origin.rows] = torch.from_numpy(read())
    return tensor
