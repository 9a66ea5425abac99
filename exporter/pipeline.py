"""An export from beginning to end: directory -> graph -> passes -> weights -> files."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass

from dualbinary import OP, DualBinaryError
from dualbinary.architectures.config_fields import field_table
from dualbinary.bundle import BundledLibrary, write_libraries
from dualbinary.checkpoint.text_part import text_notes
from dualbinary.files.json_objects import read_json_object
from dualbinary.files.model_files import CHAT_TEMPLATE, CONFIG_FILE, EXPORT_REPORT
from dualbinary.files.staging import check_space, staged
from dualbinary.onnx_files.blocks import FusedBlocks, fuse_blocks
from dualbinary.onnx_files.same_bits import state_same_bits
from exporter import transformers_js
from exporter.dequantized_products import dequantize_products
from exporter.early_checks import library_names
from exporter.export_folder import ExportFolder
from exporter.genai_notes import cache_notes, genai_notes
from exporter.graph.architectures import VERIFIED
from exporter.graph.architectures.rotation import length_notes
from exporter.graph.cuda_support import copies_and_gaps
from exporter.graph.export_graph import ExportGraph
from exporter.graph.parameters import Parameters
from exporter.graph.rewrite import rewrite
from exporter.model_files import (
    ModelFiles,
    genai_config,
    generation_warnings,
    tokenizer_warnings,
    write_model_files,
)
from exporter.options import ExportOptions
from exporter.preparation import prepare
from exporter.report import export_report, fit_notes, table_notes
from exporter.stored.data_file import max_data_bytes, write_data_file
from exporter.stored.tensor_jobs import LayerStats, tensor_jobs
from exporter.transformers_notes import transformers_notes

__all__ = ["ExportResult", "export"]

_GRAPH_BYTES = 16 << 20  # room for the graph itself and the small files when free space is checked


@dataclass(frozen=True)
class ExportResult:
    """The file that an export wrote, its graph, the parameters it was made of, and what there is to say about it."""

    path: Path
    graph: ExportGraph
    parameters: Parameters
    options: ExportOptions
    report: dict[str, Any]
    warnings: tuple[str, ...]

    @property
    def verified(self) -> bool:
        """True for the model types that tests compare with transformers."""
        return self.parameters.source.model_type in VERIFIED


def export(
    model_dir: Path,
    out: Path,
    options: ExportOptions,
    *,
    library: Path | None = None,
    cuda_library: Path | None = None,
    bundled: Sequence[BundledLibrary] = (),
    force: bool = False,
    progress: bool = False,
) -> ExportResult:
    """Export `model_dir` to `out` and the files beside it, or to the folder of `out` in another layout.

    `library` is the custom-op library to copy beside the model, for hosts without this project's packages, and
    `cuda_library` the one with the CUDA kernels, which it opens there. `bundled` are libraries of other systems, which
    get the names of these.
    Raises InputError before any work for whatever cannot be done.
    """
    libraries = [file for file in (library, cuda_library) if file is not None]
    names = library_names(library, cuda_library, bundled)
    prepared = prepare(model_dir, out, options, names, force=force)
    files, parameters = prepared.files, prepared.parameters
    source = parameters.source
    graph = rewrite(prepared.built, parameters, options, progress=progress)
    place = _place(out, graph, options)
    stats: dict[str, LayerStats] = {}
    jobs = tensor_jobs(graph, parameters, stats)

    with staged(out.parent, stale=prepared.names if force else ()) as stage:
        data = stage / place.data
        data.parent.mkdir(exist_ok=True)
        check_space(stage, max_data_bytes(graph.model) + _GRAPH_BYTES)
        write_data_file(data, graph.model, jobs, progress)
        data_bytes = data.stat().st_size
        written, blocks, parts = _save(graph.model, stage / place.model, data, options)
        context = min(filter(None, (source.context_length, options.max_length, graph.positions)), default=None)
        required = library if options.fallback == "none" else None
        genai = genai_config(graph.model, files, place.model, context, options.target, required)
        if place.dtype is not None:
            files = _for_transformers_js(files, place, len(parts), options)
        write_model_files(stage, files, genai)
        for file in libraries:
            shutil.copyfile(file, stage / file.name)
        write_libraries(bundled, stage)
        report = export_report(graph, written, parameters, stats, options, data_bytes)
        report["blocks"] = asdict(blocks)
        report["warnings"] = _warnings(graph, parameters, options, report)
        report["warnings"] += [*generation_warnings(files), *tokenizer_warnings(files, genai["model"]["vocab_size"])]
        report["warnings"] += [*cache_notes(graph.model), *transformers_notes(source.directory), *genai_notes(stage)]
        (stage / EXPORT_REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return ExportResult(out.parent / place.model, graph, parameters, options, report, tuple(report["warnings"]))


def _place(out: Path, graph: ExportGraph, options: ExportOptions) -> ExportFolder:
    if options.layout_for is None:
        return ExportFolder.of(out.name)
    planes: Counter[int] = Counter()
    for node in graph.nodes:
        planes[node.plane_format.planes] += sum(linear.N * linear.K for linear in node.linears)
    return transformers_js.folder(planes, options.activations)


def _for_transformers_js(files: ModelFiles, place: ExportFolder, chunks: int, options: ExportOptions) -> ModelFiles:
    template = files.tokenizer.get(CHAT_TEMPLATE)
    text = template.read_text(encoding="utf-8") if template is not None else None
    config = files.config | {"transformers.js_config": transformers_js.js_config(place, chunks, options.cache_type)}
    tokenizer_config = transformers_js.adapt_tokenizer_config(files.tokenizer_config, text)
    return replace(files, config=config, tokenizer_config=tokenizer_config)


def _save(
    model: ir.Model, path: Path, data: Path, options: ExportOptions
) -> tuple[onnx.ModelProto, FusedBlocks, list[Path]]:
    """Write the graph, with blocks where options ask for them. Returns what is written, blocks, and files of data."""
    version = model.opset_imports.get(OP.domain, 1)  # the oldest that can say what the file holds
    model.producer_name, model.producer_version = "dualbinary", f"op version {version}"
    try:
        CheckerPass(full_check=False)(model)
    except Exception as error:  # the checker's own exception, wrapped by the pass or not
        raise DualBinaryError(f"the graph is not a valid ONNX model: {' '.join(str(error).split())}") from error
    proto = ir.to_proto(model)
    blocks = fuse_blocks(proto) if options.fuses else FusedBlocks.none(proto)
    state_same_bits(proto)
    if options.op == "dequantizelinear":
        dequantize_products(proto, data.parent)
    parts = [data]
    if options.layout_for is not None:
        transformers_js.adapt_graph(proto)
        parts = transformers_js.split_data(proto, data)
    onnx.save(proto, path)
    return proto, blocks, parts


def _warnings(graph: ExportGraph, parameters: Parameters, options: ExportOptions, report: dict[str, Any]) -> list[str]:
    source = parameters.source
    lines = list(text_notes(read_json_object(source.directory / CONFIG_FILE)))
    if (error := report["totals"]["scale_rounding_error"]) is not None:
        lines.append(f"scales of the checkpoint rounded to 8 bits: {error:.1e} of the weights' sum of squares")
    lines += table_notes(graph.tables, parameters)
    if source.quantization is None:
        lines += fit_notes(report["layers"], options)
    if source.model_type not in VERIFIED:
        lines.append(f"model_type {source.model_type} builds, but no test compares it with transformers; see --check")
    if field_table(source.model_type) is not None:
        lines += length_notes(source.transformers.config)
    context, positions = source.context_length, graph.positions
    if options.max_length is None and context is not None and positions is not None and positions < context:
        lines.append(
            f"made for {positions:,} tokens of the model's context of {context:,}, because tables for more would "
            f"fill every session's memory; --max-length {context} makes it for the whole context"
        )
    if options.layout_for is not None:
        lines += transformers_js.js_notes(source.model_type)
    if options.target == "cuda":
        lines += [f"on CUDA, {line}" for line in copies_and_gaps(graph.model)]
    return lines
