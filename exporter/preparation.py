"""The head of an export, which reads no weights: what it refuses, a calibration before it need not wait for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dualbinary.errors import OptionError
from dualbinary.files.staging import check_output
from exporter import transformers_js
from exporter.early_checks import FORMAT, output_names, refuse_length
from exporter.graph.build import BuiltGraph, build_graph
from exporter.graph.export_graph import ExportGraph
from exporter.graph.parameters import Parameters
from exporter.graph.rewrite import rewrite
from exporter.model_files import ModelFiles, read_model_files
from exporter.options import CUDA_PLANES, ExportOptions
from exporter.source.model_directory import ModelDirectory

__all__ = ["Prepared", "graph_of_one_format", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """A model directory whose files can be exported.

    Attributes:
        files: content of the small ones.
        built: the graph as its builder made it, which passes change in place.
        parameters: of that graph, over the model directory.
        names: of the files that the export may write or has to remove.
    """

    files: ModelFiles
    built: BuiltGraph
    parameters: Parameters
    names: list[str]


def prepare(model_dir: Path, out: Path, options: ExportOptions, libraries: Sequence[str], *, force: bool) -> Prepared:
    """Open `model_dir` and build its graph, for an export to `out` with files of the names `libraries` beside it.

    Raises InputError for whatever headers and the small files tell.
    """
    source = ModelDirectory(model_dir)
    _refuse_contradictions(source, options)
    files = read_model_files(source)
    names = output_names(out, options, libraries)
    check_output(out, names, force=force, model_dir=model_dir)
    built = build_graph(source, options.activations)
    if options.layout_for is not None:
        transformers_js.refuse_states(built.model, source.model_type)
    return Prepared(files, built, Parameters(source, built), names)


def graph_of_one_format(prepared: Prepared, options: ExportOptions) -> ExportGraph:
    """The graph of the export of a checkpoint that is to be made of a plain directory, before its formats are known.

    All layers have one format, for which no weights are read: other formats have as many nodes.
    Raises InputError as an export does.
    """
    uniform = replace(options, planes=3, group_size=32, levels="even", offset=True, zero=None)
    return rewrite(prepared.built, prepared.parameters, uniform)


def _refuse_contradictions(source: ModelDirectory, options: ExportOptions) -> None:
    refuse_length(source.context_length, options)
    stored = source.quantization
    if stored is None:
        return
    own = {"planes": stored.planes, "group_size": stored.group_size, "offset": stored.has_offset}
    given = [name for name in FORMAT if getattr(options, name) is not None]
    if given:
        values = ", ".join(f"{name}={value}" for name, value in own.items())
        values += ", others by module" if stored.overrides else ""
        expected = f"no value for {source.directory}, a checkpoint that is exported as it is stored ({values})"
        hint = f"leave out {', '.join(f'{{{name}}}' for name in given)}"
        raise OptionError(given[0], expected, getattr(options, given[0]), hint)
    layers = stored.overrides.keys() - source.transformers.tables()  # a table can be stored anew
    by_place = {"": stored.plane_format} | {f" in {module}": stored.format_of(module) for module in sorted(layers)}
    for place, form in by_place.items():
        if options.target == "cuda" and options.op == "dualbinary" and form.planes > CUDA_PLANES:
            kind = f"a checkpoint of {form.planes} planes{place} (CUDA takes 1 to {CUDA_PLANES})"
            expected = f"cpu for {source.directory}, {kind}"
            raise OptionError("target", expected, options.target, "use {target} cpu, or train fewer planes")
