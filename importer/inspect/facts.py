"""What an inspection finds out about a model of this project, and how a terminal shows it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dualbinary.contract.weight import PlaneWeight
from dualbinary.metrics.statistics import weight_statistics

__all__ = ["Layer", "ModelFacts", "Others", "by_format", "by_kind", "counts_of", "mean_density", "size_words", "table"]


@dataclass(frozen=True)
class Layer:
    """A weight with few bits.

    Attributes:
        name: of the module, or of the modules that share a node.
        N, K: outputs and inputs.
        form: planes, groups and levels in words, with the layout where it is not plain.
        bits_per_weight, bytes: as stored, scales included.
        density: share of ones in each plane; None where planes were not read.
        entropy: of a weight's bits together, below which no code of single weights gets; None likewise.
    """

    name: str
    N: int
    K: int
    form: str
    bits_per_weight: float
    bytes: int
    density: tuple[float, ...] | None = None
    entropy: float | None = None


@dataclass(frozen=True)
class Others:
    """Tensors of one type that are no such weights: norms, tables, biases."""

    type: str
    tensors: int
    values: int
    bytes: int


@dataclass(frozen=True)
class ModelFacts:
    """A model of this project.

    Attributes:
        source: what was looked at.
        kind: "export" or "checkpoint".
        model_type: what transformers calls the architecture; "" where no config.json says it.
        layers, others: all that is stored.
        files: names and sizes in bytes.
        facts: titles and values of what else there is: operators, opsets, cache, metadata.
    """

    source: str
    kind: str
    model_type: str
    layers: tuple[Layer, ...]
    others: tuple[Others, ...]
    files: dict[str, int]
    facts: dict[str, dict[str, Any]]

    @property
    def totals(self) -> dict[str, float]:
        """Weights of layers, their bits, all values, and the bits of each of these."""
        weights, size = sum(each.N * each.K for each in self.layers), sum(each.bytes for each in self.layers)
        values = weights + sum(each.values for each in self.others)
        everything = size + sum(each.bytes for each in self.others)
        return {
            "weights": weights,
            "bits_per_weight": 8 * size / max(weights, 1),
            "values": values,
            "bits_per_value": 8 * everything / max(values, 1),
            "bytes": everything,
        }

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "totals": self.totals}

    def lines(self) -> list[str]:
        """For a terminal: formats, other tensors, files and facts."""
        total = self.totals
        of = f", a {self.model_type}" if self.model_type else ""
        lines = [
            f"{self.source}: {'an export' if self.kind == 'export' else 'a checkpoint'}{of}",
            f"  {total['bits_per_weight']:.3f} bits for each of {total['weights']:,} weights in {len(self.layers)} "
            f"layers and tables, {total['bits_per_value']:.3f} for all {total['values']:,} values",
            "",
            *table(["format", "layers", "weights", "bits", "MB", *self._read_titles()], self._format_rows()),
        ]
        for title, values in {"files": {n: size_words(size) for n, size in self.files.items()}, **self.facts}.items():
            width = max(map(len, values), default=0)
            lines += ["", title, *(f"  {key:<{width}}  {value}" for key, value in values.items())]
        return lines

    def _read_titles(self) -> list[str]:
        return ["density of planes"] if any(each.density for each in self.layers) else []

    def _format_rows(self) -> list[list[str]]:
        rows = []
        for form, layers in by_format(self.layers).items():
            weights, size = sum(each.N * each.K for each in layers), sum(each.bytes for each in layers)
            row = [form, str(len(layers)), f"{weights:,}", f"{8 * size / weights:.3f}", f"{size / 1e6:.1f}"]
            means = mean_density(layers)
            rows.append([*row, " ".join(f"{value:.2f}" for value in means)] if self._read_titles() else row)
        for each in self.others:
            bits = 8 * each.bytes / max(each.values, 1)
            row = [
                f"{each.type} tensors",
                str(each.tensors),
                f"{each.values:,}",
                f"{bits:.3f}",
                f"{each.bytes / 1e6:.1f}",
            ]
            rows.append([*row, ""] if self._read_titles() else row)
        return rows


def counts_of(weight: PlaneWeight | None) -> dict[str, Any]:
    """Density and entropy of a weight in layout plain, as arguments of Layer; nothing where there is none."""
    if weight is None:
        return {}
    statistics = weight_statistics(weight)
    return {"density": statistics.density, "entropy": statistics.entropy}


def by_format(layers: Sequence[Layer]) -> dict[str, list[Layer]]:
    """Layers by their form, in the order in which they come."""
    return _grouped((each.form, each) for each in layers)


def by_kind(layers: Sequence[Layer]) -> dict[str, list[Layer]]:
    """Layers by the last part of their name, which is that of the same layer in another block."""
    return _grouped((each.name.removesuffix(".weight").rpartition(".")[2], each) for each in layers)


def mean_density(layers: Sequence[Layer]) -> list[float]:
    """The share of ones in each plane of layers that have the same number of planes and were read."""
    known = [(each.N * each.K, each.density) for each in layers if each.density]
    if not known:
        return []
    total = sum(weights for weights, _ in known)
    return [sum(weights * shares[plane] for weights, shares in known) / total for plane in range(len(known[0][1]))]


def size_words(size: int) -> str:
    """Bytes in MB, or in KB where that says more."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} KB"


def table(titles: list[str], rows: list[list[str]]) -> list[str]:
    """Aligned columns: the first to the left, numbers to the right."""
    everything = [titles, *rows]
    widths = [max(len(row[column]) for row in everything) for column in range(len(titles))]
    return [
        "  "
        + "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in everything
    ]


def _grouped(pairs: Any) -> dict[str, list[Layer]]:
    found: dict[str, list[Layer]] = defaultdict(list)
    for key, layer in pairs:
        found[key].append(layer)
    return dict(found)
