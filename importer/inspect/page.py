"""One HTML file with all facts of a model; it loads nothing from elsewhere."""

from collections.abc import Sequence
from pathlib import Path

from dualbinary.cli.version import package_version
from dualbinary.pages.page import render
from importer.inspect.charts import charts_of
from importer.inspect.facts import ModelFacts, by_format, mean_density, size_words

__all__ = ["page_of"]

TEMPLATE = Path(__file__).with_name("page.html")


def page_of(facts: ModelFacts) -> str:
    """The page. Raises InputError where matplotlib is missing."""
    path, total = Path(facts.source).resolve(), facts.totals
    name = path.parent.name if facts.kind == "export" else path.name
    files = ", ".join(f"{file} {size_words(size)}" for file, size in facts.files.items())
    sentences = [
        f"{'An export' if facts.kind == 'export' else 'A checkpoint'} of a {facts.model_type or 'model'}: "
        f"{facts.source}.",
        f"{total['bits_per_weight']:.3f} bits for each of {total['weights']:,} weights in {len(facts.layers)} layers "
        f"and tables; {total['bits_per_value']:.3f} for each of all {total['values']:,} values.",
        f"Files: {files}.",
        f"Inspected by dualbinary {package_version()}.",
    ]
    return render(
        TEMPLATE,
        name=name,
        sentences=sentences,
        charts=charts_of(facts),
        facts=facts.facts,
        format_titles=["format", "layers", "weights", "bits", "MB", "density of planes"],
        format_rows=_format_rows(facts),
        layer_titles=["layer", "N", "K", "bits", "KB", "entropy", "density of planes", "format"],
        layer_rows=[
            [
                each.name,
                f"{each.N:,}",
                f"{each.K:,}",
                f"{each.bits_per_weight:.3f}",
                f"{each.bytes / 1e3:,.1f}",
                "" if each.entropy is None else f"{each.entropy:.3f}",
                _shares(each.density or ()),
                each.form,
            ]
            for each in facts.layers
        ],
    )


def _format_rows(facts: ModelFacts) -> list[list[str]]:
    rows = []
    for form, layers in by_format(facts.layers).items():
        weights, size = sum(each.N * each.K for each in layers), sum(each.bytes for each in layers)
        numbers = [f"{len(layers)}", f"{weights:,}", f"{8 * size / weights:.3f}", f"{size / 1e6:.1f}"]
        rows.append([form, *numbers, _shares(mean_density(layers))])
    for each in facts.others:
        bits = f"{8 * each.bytes / max(each.values, 1):.3f}"
        rows.append(
            [f"{each.type} tensors", f"{each.tensors}", f"{each.values:,}", bits, f"{each.bytes / 1e6:.1f}", ""]
        )
    return rows


def _shares(density: Sequence[float]) -> str:
    return " ".join(f"{value:.2f}" for value in density)
