"""An export from beginning to end: directory -> graph -> passes -> weights -> files."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass
from tqdm import tqdm

from dualbinary import OP, InputError
from dualbinary.files.staging import check_output, check_space, staged
from dualbinary.onnx_files.model_files import CONFIGS, EXPORT_REPORT, POSSIBLE_COMPANIONS
from exporter.graph.architectures import VERIFIED
from exporter.graph.build import BuiltGraph, build_graph
from exporter.graph.cuda_support import copies_and_gaps
from exporter.graph.passes.linear import PlaneNode
from exporter.graph.passes.vocabulary import Table
from exporter.graph.rewrite import Rewritten, rewrite
from exporter.model_files import genai_config, read_companions, write_sidecars
from exporter.options import CUDA_PLANES, ExportOptions
from exporter.report import export_report
from exporter.source.model_directory import ModelSource
from exporter.source.parameters import Weights
from exporter.stored.data_file import DataFile, padded_size
from exporter.stored.tensor_jobs import Figures, Piece, computed, parameter_piece, plane_piece, table_piece
from exporter.stored.vocabulary_tables import finite

__all__ = ["Export", "export"]

_MAX_THREADS = 4  # each holds a layer in float32; more cores would buy time with memory
_GRAPH_BYTES = 16 << 20  # room for the graph itself and the small files when free space is checked


@dataclass(frozen=True)
class Export:
    """What an export made and from what, for `--check`."""

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
    cuda_library: Path | None = None,
    force: bool = False,
    progress: bool = False,
) -> Export:
    """Export `model_dir` to `out` and the files beside it.

    `library` is the custom-op library to lay beside the model, where onnxruntime-genai looks for it, and `cuda_library`
    the one with the CUDA kernels, which it opens there.
    Raises InputError before any work for whatever cannot be done.
    """
    source = ModelSource(model_dir)
    _refuse_contradictions(source, options)
    data_name = f"{out.name}.data"
    companions = read_companions(source)
    names = [out.name, data_name, *CONFIGS]
    names += companions.names
    libraries = [file for file in (library, cuda_library) if file is not None]
    names += [file.name for file in libraries]
    check_output(out, names, force=force, model_dir=model_dir)
    graph = build_graph(source, options.activations)
    weights = Weights(source, graph)
    rewritten = rewrite(graph, weights, options)
    figures = Figures()
    pieces = _pieces(graph, rewritten, weights, figures)
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
        for file in libraries:
            (stage / file.name).write_bytes(file.read_bytes())
        report = export_report(graph.model, weights, rewritten, figures, options, stage / data_name)
        (stage / EXPORT_REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    warnings = _warnings(source, options, report)
    if options.target == "cuda":
        warnings += [f"on CUDA, {line}" for line in copies_and_gaps(graph.model)]
    return Export(weights, rewritten.nodes, rewritten.tables, options, report, tuple(warnings))


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
    if stored is not None and options.target == "cuda" and stored.planes > CUDA_PLANES:
        raise InputError(
            f"{source.directory}: a checkpoint of {stored.planes} planes, but the kernels of --target cuda take 1 to "
            f"{CUDA_PLANES}; use --target cpu, or train fewer"
        )


def _pieces(graph: BuiltGraph, rewritten: Rewritten, weights: Weights, figures: Figures) -> list[Piece]:
    """One piece for every initializer that waits for data, in graph order."""
    by_value: dict[ir.Value, Piece] = {}
    for node in rewritten.nodes:
        piece = plane_piece(node, weights, figures)
        by_value |= dict.fromkeys(piece.values, piece)
    for table in rewritten.tables:
        piece = table_piece(table, weights)
        by_value |= dict.fromkeys(piece.values, piece)
    initializers = graph.model.graph.initializers
    for name in [name for name, value in initializers.items() if not value.uses()]:
        del initializers[name]
    pieces: dict[str, Piece] = {}
    for value in graph.parameters().values():
        piece = by_value.get(value) or parameter_piece(value, weights, rewritten.joined_biases)
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


def _warnings(source: ModelSource, options: ExportOptions, report: dict[str, Any]) -> list[str]:
    lines = []
    if (error := report["totals"]["scale_rounding_error"]) is not None:
        lines.append(f"scales of the checkpoint rounded to 8 bits: {error:.1e} of the weights' sum of squares")
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
