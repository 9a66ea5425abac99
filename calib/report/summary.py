"""A record in rows and sums: a row for each layer, means over the model, and operations by the paper's rule.

A layer's row holds the figures after its last stage; errors are of every stage. Correlations and output errors need the
inputs of a layer, which distillation does not keep: there the row shows those of the last stage that knew them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from calib.config import STAGES
from calib.report.budget_chart import budget_sentence
from calib.report.files import plain
from dualbinary.contract.rotation import LEAST_BLOCK
from dualbinary.metrics.statistics import PAPER_PLANE_SHARE, PAPER_PROMPT_TOKENS, PAPER_RULE, paper_flops

__all__ = [
    "NOTES",
    "Layer",
    "flops",
    "layers_of",
    "rotation_sentence",
    "sentences",
    "stages_of",
    "table",
    "table_rows",
    "totals",
    "totals_rows",
]

MEANS = [
    "weight_error",
    "output_error",
    "density",
    "entropy",
    "huffman_bits",
    "level_shares",
    "corr_paths",
    "corr_residual",
]
NOTES = (
    "ones: share of bits set in each plane; entropy, Huffman: bits per weight of the codes",
    "weights, outputs: squared error of either, relative, after each stage; all: mean over the weights of all layers",
    "paths, residual: correlation of a plane's output with the plane before it, and with what is left over for it",
)


@dataclass(frozen=True)
class Layer:
    """A layer of a record: its name and its figures after each stage, in the order of the stages."""

    name: str
    stages: dict[str, dict[str, Any]]

    @property
    def last(self) -> dict[str, Any]:
        """The figures after the last stage."""
        return self.stages[next(reversed(self.stages))]

    def known(self, key: str) -> Any:
        """The figure `key` after the last stage that knew it; None where none did."""
        values = [figures[key] for figures in self.stages.values() if figures[key] is not None]
        return values[-1] if values else None

    def errors(self, key: str, stages: Iterable[str]) -> list[float | None]:
        """The figure `key` after each of `stages`; None where it is not known."""
        return [self.stages[stage][key] if stage in self.stages else None for stage in stages]


def layers_of(record: dict[str, Any]) -> list[Layer]:
    """The layers of a record, in its order."""
    return [
        Layer(name, {stage: figures[stage] for stage in STAGES if stage in figures})
        for block in record["blocks"]
        for name, figures in block["layers"].items()
    ]


def stages_of(record: dict[str, Any]) -> list[str]:
    """The stages that have figures of layers, in order."""
    found = {stage for block in record["blocks"] for figures in block["layers"].values() for stage in figures}
    return [stage for stage in STAGES if stage in found]


def totals(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """For each stage the means of the layers' figures, each layer counted by its weights; None where none knows it.

    None as well for what there is of each plane or level, where layers have different numbers of them.
    """
    result: dict[str, dict[str, Any]] = {}
    for stage in stages_of(record):
        rows = [layer.stages[stage] for layer in layers_of(record) if stage in layer.stages]
        result[stage] = {"weights": sum(row["weights"] for row in rows)} | {key: _mean(rows, key) for key in MEANS}
    return result


def _mean(rows: list[dict[str, Any]], key: str) -> Any:
    known = [row for row in rows if row[key] is not None]
    if not known:
        return None
    whole = sum(row["weights"] for row in known)
    if not isinstance(known[0][key], list):
        return sum(row[key] * row["weights"] for row in known) / whole
    if len({len(row[key]) for row in known}) > 1:
        return None
    columns = zip(*(row[key] for row in known), strict=True)
    return [sum(value * row["weights"] for value, row in zip(column, known, strict=True)) / whole for column in columns]


def flops(record: dict[str, Any]) -> dict[str, Any]:
    """Floating-point operations of a short prompt, a multiply-add counted as two; no claim about speed.

    `full` and `quantized` are as DB-LLM (arXiv 2402.11960) counts them: `rule` says how, and with the paper's
    LLaMA-1-7B it gives the paper's 423.4 G. No processor skips single bits at no cost, so two plainer counts stand
    beside: `every_bit`, by the same rule but with all bits of the planes, zeros too; and `additions`, where a bit that
    is set costs one addition and nothing is divided by 16. Layers that keep full precision inside the blocks are in
    none of them; attention is taken to be as wide as the hidden states.
    """
    model, layers = record["model"], [layer.last for layer in layers_of(record)]
    tokens = PAPER_PROMPT_TOKENS
    rest = paper_flops((), model["hidden"] * model["vocabulary"], model["hidden"] * len(record["blocks"])).full
    weights = sum(layer["weights"] for layer in layers)
    bits = sum(layer["weights"] * len(layer["density"]) for layer in layers)
    ones = sum(layer["weights"] * sum(layer["density"]) for layer in layers)
    full, quantized = rest + 2 * tokens * weights, rest + 2 * tokens * ones * PAPER_PLANE_SHARE
    return {
        "rule": PAPER_RULE,
        "tokens": tokens,
        "full": full,
        "quantised": quantized,
        "ratio": full / quantized,
        "every_bit": rest + 2 * tokens * bits * PAPER_PLANE_SHARE,
        "additions": rest + tokens * ones,
    }


def table(record: dict[str, Any]) -> str:
    """The record for people: a line for each layer, the means over the model, and sentences about the run."""
    rows = [[plain(cell) for cell in row] for row in table_rows(record)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]) for name, *cells in rows]
    return "\n".join([*lines, "", *NOTES, "", *map(plain, sentences(record))])


def table_rows(record: dict[str, Any]) -> list[list[str]]:
    """Titles, a row for each layer, and one for all; without the columns in which nothing is known."""
    stages = stages_of(record)
    errors = [f"{kind}, {stage}" for kind in ("weights", "outputs") for stage in stages]
    rows = [["layer", "format", "bits", "weights", "ones", "entropy", "Huffman", *errors, "paths", "residual"]]
    for layer in [*layers_of(record), Layer("all", totals(record))]:
        name, *cells = _cells(layer, stages)
        rows.append([name, *_format_cells(record["model"], name), *cells])
    return _known_columns(rows)


def _format_cells(model: dict[str, Any], name: str) -> list[str]:
    """Format and stored bits per weight, where layers of a run have formats of their own."""
    formats = model.get("formats")
    if not formats:
        return ["-", "-"]
    if name not in formats:
        return ["-", _number(model["bits_per_weight"], 3)]
    return [formats[name]["format"], _number(formats[name]["bits_per_weight"], 3)]


def totals_rows(record: dict[str, Any]) -> list[list[str]]:
    """Titles, and a row for each stage with the means over the model."""
    rows = [["after", "weights", "ones", "entropy", "Huffman", "error of weights", "of outputs", "paths", "residual"]]
    rows += [_cells(Layer(stage, {stage: means}), [stage]) for stage, means in totals(record).items()]
    return _known_columns(rows)


def _known_columns(rows: list[list[str]]) -> list[list[str]]:
    columns = [cells for cells in zip(*rows, strict=True) if set(cells[1:]) != {"-"}]
    return [list(row) for row in zip(*columns, strict=True)]


def _cells(layer: Layer, stages: list[str]) -> list[str]:
    codes = [_number(layer.known(key), digits) for key, digits in (("density", 2), ("entropy", 3), ("huffman_bits", 3))]
    errors = [_number(error, 4) for key in ("weight_error", "output_error") for error in layer.errors(key, stages)]
    correlations = [_number(layer.known(key), 2) for key in ("corr_paths", "corr_residual")]
    return [layer.name, f"{layer.last['weights']:,}", *codes, *errors, *correlations]


def _number(value: float | list[float] | None, digits: int) -> str:
    if isinstance(value, list):
        return " ".join(f"{one:.{digits}f}" for one in value) or "-"
    return "-" if value is None else f"{value:.{digits}f}"


def sentences(record: dict[str, Any]) -> list[str]:
    """The run in a few lines: size, operations, what each stage gained, and times."""
    model, counted = record["model"], flops(record)
    billions = {key: f"{counted[key] / 1e9:.4g} G" for key in ("full", "quantised", "every_bit", "additions")}
    lines = [
        f"{model['name']}: {model['quantised_parameters'] / 1e6:.1f} of {model['parameters'] / 1e6:.1f} million "
        f"weights at {model['bits_per_weight']:.3f} bits, scales included",
        f"operations for {counted['tokens']} tokens by the paper's rule: {billions['full']} -> "
        f"{billions['quantised']}, {counted['ratio']:.1f} times fewer; with zero bits counted too "
        f"{billions['every_bit']}, an addition for each bit that is set {billions['additions']}. Counts, not speeds",
    ]
    lines += [budget_sentence(record["budget"])] if record.get("budget") else []
    lines += _format_sentences(record)
    if model.get("rotations"):
        lines.append(rotation_sentence(model["rotations"]))
    known = [block for block in record["blocks"] if None not in (block.get("error_before"), block.get("error_after"))]
    if known:
        before, after = (sum(block[key] for block in known) / len(known) for key in ("error_before", "error_after"))
        lines.append(f"reconstruction: held-out error of a block, mean, {before:.4f} -> {after:.4f}")
    for one in record.get("tables") or []:
        outputs = "" if one["output_error"] is None else f", of outputs {one['output_error']:.2e}"
        lines.append(
            f"vocabulary table {one['name']}: {one['format']}, {one['weights'] / 1e6:.1f} million weights at "
            f"{one['bits_per_weight']:.3f} bits; error of weights {one['weight_error']:.2e}{outputs}"
        )
    if record.get("filter"):
        lines.append(_filter_sentence(record["filter"]))
    e2e = record.get("e2e")
    if e2e and e2e["first_loss"] is not None and e2e["best_loss"] is not None:
        lines.append(
            f"distillation: held-out loss {e2e['first_loss']:.4f} -> {e2e['best_loss']:.4f} at step {e2e['best_step']}"
        )
    times = ", ".join(f"{stage} {seconds / 60:.1f}" for stage, seconds in record["seconds"].items())
    return [*lines, f"minutes: {times}"]


def rotation_sentence(rotations: dict[str, int | None]) -> str:
    """The blocks in which inputs of each width are rotated, and those that are not."""
    blocks = ", ".join(f"{width} in blocks of {block}" for width, block in rotations.items() if block is not None)
    others = ", ".join(width for width, block in rotations.items() if block is None)
    text = f"rotated inputs, by width: {blocks or 'none'}"
    return f"{text}; not rotated, as no block of {LEAST_BLOCK} or more divides them: {others}" if others else text


def _format_sentences(record: dict[str, Any]) -> list[str]:
    """The formats of a run that has several: layers, weights and true bits of each."""
    found: dict[str, list[tuple[int, float]]] = {}
    weights = {layer.name: layer.last["weights"] for layer in layers_of(record)}
    for name, one in (record["model"].get("formats") or {}).items():
        found.setdefault(one["format"], []).append((weights[name], one["bits_per_weight"]))
    lines: list[str] = []
    for form, layers in found.items():
        count = sum(size for size, _ in layers)
        bits = sum(size * each for size, each in layers) / count
        lines.append(f"{form}: {len(layers)} layers, {count / 1e6:.1f} million weights at {bits:.3f} bits")
    return lines


def _filter_sentence(chosen: dict[str, Any]) -> str:
    """The generated sequences that were kept, and their difference from all of them."""
    text = f"filter: {len(chosen['chosen'])} of {chosen['candidates']} generated sequences by {chosen['by']}"
    for key, name in (("scores", "KL from the teacher"), ("distinct", "share of distinct tokens")):
        values = chosen[key]
        if values is not None:
            kept = [values[index] for index in chosen["chosen"]]
            text += f"; {name} {sum(values) / len(values):.3f} in all, {sum(kept) / len(kept):.3f} in those kept"
    return text
