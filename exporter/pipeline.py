"""An export from beginning to end: directory -> graph -> passes -> weights -> files."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass, RemoveUnusedNodesPass
from tqdm import tqdm

from dualbinary import OP, InputError, padded_k
from dualbinary.statistics import WeightStatistics
from exporter.architectures import VERIFIED
from exporter.contents import Piece, computed, parameter_piece, plane_piece, table_piece
from exporter.datafile import DataFile, padded_size
from exporter.graph import BuiltGraph, build_graph
from exporter.options import ExportOptions
from exporter.output import check_output, check_space, staged
from exporter.passes.fallback import fallback_function
from exporter.passes.group_query_attention import GroupQueryAttentionPass
from exporter.passes.linear import DualBinaryLinearPass, Linear, PlaneFormat, PlaneNode, find_linears
from exporter.passes.lower_opset import LowerOpsetPass
from exporter.passes.pack_qkv import PackQkvPass
from exporter.passes.vocabulary import Table, VocabularyPass, find_embedding, find_head
from exporter.report import export_report
from exporter.sidecars import POSSIBLE_COMPANIONS, genai_config, read_companions, write_sidecars
from exporter.source import ModelSource
from exporter.tables import finite
from exporter.weights import Weights

__all__ = ["Export", "export"]

_SCALE_DTYPES = {"F16": ir.DataType.FLOAT16, "F32": ir.DataType.FLOAT}
_DTYPES = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16}
_ROUTERS = (".gate", ".router", ".gate_proj.router")  # of mixtures of experts: tiny, and wrong choices are expensive
_MAX_THREADS = 4  # each holds a layer in float32; more cores would buy time with memory
_GRAPH_BYTES = 16 << 20  # room for the graph itself and the small files when free space is checked


@dataclass(frozen=True)
class Export:
    """What an export made: the graph with its parts, for the report and for `--check`."""

    model: ir.Model
    weights: Weights
    nodes: tuple[PlaneNode, ...]
    tables: tuple[Table, ...]
    options: ExportOptions
    report: dict[str, Any]
    warnings: tuple[str, ...]

    @property
    def verified(self) -> bool:
        """Whether tests hold this model type against transformers."""
        return self.weights.source.model_type in VERIFIED


def export(
    model_dir: Path,
    out: Path,
    options: ExportOptions,
    *,
    library: Path | None = None,
    force: bool = False,
    progress: bool = False,
) -> Export:
    """Export `model_dir` to `out` and the files beside it.

    `library` is the custom-op library to lay beside the model, where onnxruntime-genai looks for it.
    Raises InputError before any work for whatever cannot be done.
    """
    source = ModelSource(model_dir)
    _refuse_contradictions(source, options)
    data_name = f"{out.name}.data"
    companions = read_companions(source)
    names = [out.name, data_name, "genai_config.json", "config.json", "generation_config.json", "export_report.json"]
    names += companions.names
    check_output(out, model_dir, [*names, *([library.name] if library is not None else [])], force=force)
    graph = build_graph(source, options.dtype)
    weights = Weights(source, graph)
    nodes, tables, merged = _run_passes(graph, weights, options)
    layers: dict[str, WeightStatistics] = {}
    pieces = _pieces(graph, nodes, tables, merged, weights, layers)
    with staged(out.parent, stale=POSSIBLE_COMPANIONS) as stage:
        check_space(stage, sum(padded_size(v) for v in graph.model.graph.initializers.values()) + _GRAPH_BYTES)
        with open(stage / data_name, "wb") as file:
            _write_data(DataFile(file, stage / data_name), graph.model, pieces, progress)
            file.flush()
            os.fsync(file.fileno())
        _finish(graph.model)
        ir.save(graph.model, stage / out.name)
        genai = genai_config(graph.model, source, companions.generation, out.name, options.target, library)
        write_sidecars(stage, source, genai, companions)
        if library is not None:
            (stage / library.name).write_bytes(library.read_bytes())
        report = export_report(graph.model, weights, nodes, tables, layers, options, stage / data_name)
        (stage / "export_report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return Export(graph.model, weights, tuple(nodes), tuple(tables), options, report, tuple(_warnings(source, options)))


def _refuse_contradictions(source: ModelSource, options: ExportOptions) -> None:
    stored = source.quantization
    given = [
        name
        for name, value in (
            ("--planes", options.planes),
            ("--group-size", options.group_size),
            ("--offset", options.offset),
        )
        if value is not None
    ]
    if stored is not None and given:
        raise InputError(
            f"{source.directory}: a checkpoint with planes={stored.planes}, group_size={stored.group_size}, "
            f"has_offset={stored.has_offset}, which is exported as it is stored; leave out {', '.join(given)}"
        )


def _run_passes(
    graph: BuiltGraph, weights: Weights, options: ExportOptions
) -> tuple[list[PlaneNode], list[Table], dict[str, tuple[str, ...]]]:
    model, dtype = graph.model, _DTYPES[options.dtype]
    GroupQueryAttentionPass(graph.window, weights.source.sliding_window)(model)
    RemoveUnusedNodesPass()(model)  # what the rotations and masks left behind would count as users
    linears = find_linears(model)
    head, embedding = find_head(model, linears), find_embedding(model)
    formats = {
        linear.parameter: layout
        for linear in linears
        if linear is not head and (layout := _plane_format(linear, weights, options)) is not None
    }
    linear_pass = DualBinaryLinearPass([x for x in linears if x.parameter in formats], formats, options.accuracy_level)
    linear_pass(model)
    pack_pass = PackQkvPass()
    pack_pass(model)
    tied = head is not None and embedding is not None and _tied(head, embedding, weights)
    vocabulary = VocabularyPass(
        embedding, head, tied=tied, bits=options.embedding_bits, dtype=dtype, accuracy_level=options.accuracy_level
    )
    vocabulary(model)
    RemoveUnusedNodesPass()(model)
    for value in [v for v in model.graph.inputs if v.name == "position_ids" and not v.uses()]:
        model.graph.inputs.remove(value)
    LowerOpsetPass()(model)
    if options.fallback != "none" and linear_pass.nodes:
        layout = linear_pass.nodes[0].format
        sizes = {node.format.group_size for node in linear_pass.nodes}
        function = fallback_function(
            options.fallback, layout.planes, layout.scale_rows > layout.planes, sizes, model.graph.opset_imports[""]
        )
        model.functions[function.identifier()] = function
        model.graph.opset_imports.setdefault("com.microsoft", 1)
    return linear_pass.nodes, vocabulary.tables, pack_pass.merged


def _plane_format(linear: Linear, weights: Weights, options: ExportOptions) -> PlaneFormat | None:
    """The format of a layer's planes; None for a layer that stays in full precision."""
    stored = weights.source.quantization
    if stored is not None:
        if not weights.has_planes(linear.parameter):
            return None
        dtype = _SCALE_DTYPES[weights.stored_scale_dtype(linear.parameter)]
        return PlaneFormat(stored.planes, stored.scale_rows, stored.group_size, dtype)
    if linear.module.endswith(_ROUTERS):
        return None
    # A row shorter than a group is one group.
    group_size = min(options.fit_group_size, padded_k(linear.K, OP.limits["group_multiple"]))
    rows = options.fit_planes + options.fit_offset
    return PlaneFormat(options.fit_planes, rows, group_size, ir.DataType.FLOAT16)


def _tied(head: Linear, embedding: ir.Node, weights: Weights) -> bool:
    table = embedding.inputs[0]
    return head.weight is table or (table is not None and weights.same(head.parameter, str(table.name)))


def _pieces(
    graph: BuiltGraph,
    nodes: list[PlaneNode],
    tables: list[Table],
    merged: dict[str, tuple[str, ...]],
    weights: Weights,
    layers: dict[str, WeightStatistics],
) -> list[Piece]:
    """One piece for every initializer that waits for data, in graph order."""
    by_value: dict[ir.Value, Piece] = {}
    for node in nodes:
        piece = plane_piece(node, weights, layers)
        by_value |= dict.fromkeys(piece.values, piece)
    for table in tables:
        piece = table_piece(table, weights)
        by_value |= dict.fromkeys(piece.values, piece)
    initializers = graph.model.graph.initializers
    for name in [name for name, value in initializers.items() if not value.uses()]:
        del initializers[name]
    pieces: dict[str, Piece] = {}
    for value in graph.parameters().values():
        piece = by_value.get(value) or parameter_piece(value, weights, merged)
        pieces[piece.name] = piece
    return list(pieces.values())


def _write_data(data: DataFile, model: ir.Model, pieces: list[Piece], progress: bool) -> None:
    for value in list(model.graph.initializers.values()):  # tables of the graph itself, such as those of the rotation
        if value.const_value is not None and value.const_value.nbytes >= OP.layouts[0].alignment:
            data.add(value, finite(value.const_value.numpy(), str(value.name)))
    total = sum(piece.work for piece in pieces)
    bar = tqdm(
        total=total, unit="w", unit_scale=True, desc="weights", disable=not progress, file=sys.stderr, mininterval=0.5
    )
    with bar:
        for piece, arrays in computed(pieces, threads=min(os.cpu_count() or 1, _MAX_THREADS)):
            for value, array in zip(piece.values, arrays, strict=True):
                data.add(value, array)
            bar.update(piece.work)


def _finish(model: ir.Model) -> None:
    model.producer_name, model.producer_version = "dualbinary", f"op version {OP.version}"
    CheckerPass(full_check=False)(model)


def _warnings(source: ModelSource, options: ExportOptions) -> list[str]:
    lines = []
    if source.quantization is None:
        text = f"{options.fit_planes} planes fitted without data"
        if options.fit_planes + options.fit_offset < 4:
            lines.append(
                f"{text}: so few planes need training, expect text without sense; --calibrate fast trains two planes"
            )
        else:
            lines.append(
                f"{text}; for two bits a weight use --calibrate fast|best [--text FILE], which trains two planes"
            )
    if source.model_type not in VERIFIED:
        lines.append(f"model_type {source.model_type} builds, but no test compares it with transformers; see --check")
    return lines
