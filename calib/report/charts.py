"""The pictures of a report: SVG by matplotlib, for the inside of one HTML page.

Layers are on the axes by their number, never by name: names come from files that others wrote, and matplotlib reads
some characters as mathematics.
"""

from typing import TYPE_CHECKING, Any

from calib.report.analyses import AFTER, BEFORE
from calib.report.budget_chart import CAPTION, budget_figure
from calib.report.summary import Layer, layers_of, stages_of, totals
from dualbinary.pages.drawing import SERIES_COLORS, bars, dots, new_figure, positive_log, svg
from dualbinary.pages.page import Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["analysis_charts", "run_charts"]

STAGE_COLORS = {"init": "#8a94a6", "layer": "#2f855a", "block": "#2b6cb0", "e2e": "#c05621"}
CONTOURS = 12
SHOWN_LEVELS = 16  # more bars than that nobody tells apart
LEVELS = ("lowest", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th")


def run_charts(record: dict[str, Any]) -> list[Chart]:
    """The pictures of a record. Raises InputError where matplotlib is missing."""
    layers = layers_of(record)
    of_run = [_budget(record), _filter(record), _training(record), _blocks(record), _errors(record, layers)]
    of_layers = [_planes(layers), _levels(record, layers), _flipped(layers), _correlations(layers)]
    return [chart for chart in of_run + of_layers if chart]


def analysis_charts(analyses: dict[str, Any]) -> list[Chart]:
    """The pictures of the analyses. Raises InputError where matplotlib is missing."""
    return [_preference(analyses["preference"]), _landscape(analyses["landscape"])]


def _budget(record: dict[str, Any]) -> Chart | None:
    budget = record.get("budget")
    return Chart("Budget", CAPTION, budget_figure(budget)) if budget else None


def _training(record: dict[str, Any]) -> Chart | None:
    curve = (record.get("e2e") or {}).get("curve")
    if not curve:
        return None
    figure, (losses, terms) = new_figure(2)
    best = record["e2e"]["best_step"]
    _line(losses, curve, "loss", "training", SERIES_COLORS[4], linewidth=0.8)
    held_out = [{"tokens": point["tokens"], **point["held_out"]} for point in curve if point.get("held_out")]
    _line(losses, held_out, "loss", "held out", SERIES_COLORS[1], marker="o", markersize=4)
    for tokens in [point["tokens"] for point in curve if point["step"] == best]:
        losses.axvline(tokens, color=SERIES_COLORS[1], linewidth=0.8, linestyle=":", label="kept")
    for name, color in zip(("kl", "ce", "dad", "mse", "features"), SERIES_COLORS, strict=True):
        _line(terms, curve, name, "", color, linewidth=0.6, alpha=0.5)
        _line(terms, held_out, name, name, color, marker="o", markersize=4)
    others = {"mse", "features"} & {name for point in curve for name in point}
    for axes in (losses, terms):
        axes.set(xlabel="tokens", ylabel="loss of a token" if others else "nats a token")
        _thousands(axes)
    caption = (
        "Left: the loss that training lowers, and the same on held-out windows, measured as the state would be stored. "
        f"The state of step {best} was kept. Right: its terms, thin lines in training; kl is the divergence from the "
        "full-precision model, ce the cross entropy with the text, mse the mean square of logit differences, features "
        "the relative squared errors of all blocks' outputs together."
    )
    return Chart("Distillation", caption, svg(figure, "training"))


def _filter(record: dict[str, Any]) -> Chart | None:
    found = record.get("filter")
    if not found or found["scores"] is None:
        return None
    figure, (axes,) = new_figure(1)
    chosen = set(found["chosen"])
    rows = list(zip(found["distinct"], found["scores"], strict=True))
    for label, kept, color in (("left", False, SERIES_COLORS[4]), ("kept", True, SERIES_COLORS[1])):
        points = [point for index, point in enumerate(rows) if (index in chosen) is kept]
        if points:
            axes.plot(*zip(*points, strict=True), linestyle="", marker=".", label=label, color=color)
    axes.set(xlabel="share of distinct tokens", ylabel="KL from the teacher")
    caption = (
        "Sequences that the model wrote: how far the student was from the teacher on each as distillation began, and "
        "how much it repeats itself. Distillation trained on those kept."
    )
    return Chart("Sequences", caption, svg(figure, "filter"))


def _blocks(record: dict[str, Any]) -> Chart | None:
    blocks = record["blocks"]
    before, after = ([block.get(key) for block in blocks] for key in ("error_before", "error_after"))
    if after == [None] * len(blocks):
        return None
    figure, (axes,) = new_figure(1)
    dots(axes, before, "before", STAGE_COLORS["init"])
    dots(axes, after, "after", STAGE_COLORS["block"])
    positive_log(axes, before + after)
    axes.set(xlabel="block", ylabel="relative squared error")
    caption = "Error of each block's output against the full-precision model's, on held-out windows, before and after "
    return Chart("Reconstruction", caption + "the block was trained.", svg(figure, "blocks"))


def _errors(record: dict[str, Any], layers: list[Layer]) -> Chart:
    kinds = [
        (key, label)
        for key, label in (("weight_error", "weights"), ("output_error", "outputs"))
        if any(layer.known(key) is not None for layer in layers)
    ]
    figure, panels = new_figure(len(kinds))
    for axes, (key, label) in zip(panels, kinds, strict=True):
        for stage in stages_of(record):
            values = [layer.errors(key, [stage])[0] for layer in layers]
            dots(axes, values, f"after {stage}", STAGE_COLORS[stage])
        positive_log(axes, [value for layer in layers for value in layer.errors(key, layer.stages)])
        axes.set(xlabel="layer", ylabel=f"relative squared error of {label}")
    caption = (
        "How far each layer is from its full-precision weight, and its outputs from the full-precision outputs of the "
        "same inputs. Training may move weights away to bring outputs nearer. Distillation keeps no inputs, so it has "
        "no error of outputs."
    )
    return Chart("Layers", caption, svg(figure, "errors"))


def _planes(layers: list[Layer]) -> Chart:
    figure, (ones, bits) = new_figure(2)
    planes = [len(layer.last["density"]) for layer in layers]
    for plane in range(max(planes)):
        values = [_at(layer.last["density"], plane) for layer in layers]
        dots(ones, values, f"plane {plane + 1}", _color(plane))
    ones.set(xlabel="layer", ylabel="share of bits set", ylim=(0, 1))
    for key, label, color in (("huffman_bits", "Huffman code", "#c05621"), ("entropy", "entropy", "#2b6cb0")):
        dots(bits, [layer.last[key] for layer in layers], label, color)
    if len(set(planes)) == 1:
        bits.axhline(planes[0], color="#8a94a6", linewidth=0.8, label="as stored")
    else:
        dots(bits, planes, "as stored", "#8a94a6")
    bits.set(xlabel="layer", ylabel="bits a weight, without scales")
    caption = (
        "Left: how full each plane is. Right: the joint entropy of a weight's bits, below which no code of single "
        "weights gets, and what a Huffman code takes; the planes are stored without either."
    )
    return Chart("Planes", caption, svg(figure, "planes"))


def _levels(record: dict[str, Any], layers: list[Layer]) -> Chart | None:
    counts = {len(layer.last["level_shares"]) for layer in layers}
    if len(counts) > 1 or max(counts) > SHOWN_LEVELS:
        return None
    figure, (means, stack) = new_figure(2)
    found = totals(record)
    count = len(layers[0].last["level_shares"])
    names = [LEVELS[place] if count < len(LEVELS) else str(place + 1) for place in range(count)]
    series = [(f"after {stage}", mean["level_shares"], STAGE_COLORS[stage]) for stage, mean in found.items()]
    bars(means, names, series)
    means.set(xlabel="level of the group", ylabel="share of all weights")
    bottom = [0.0] * len(layers)
    for place in range(count):
        shares = [layer.last["level_shares"][place] for layer in layers]
        shade = 0.25 + 0.65 * place / max(1, count - 1)
        stack.bar(range(len(layers)), shares, 1.0, bottom=bottom, color=(0.17, 0.42, 0.69, shade))
        bottom = [below + share for below, share in zip(bottom, shares, strict=True)]
    stack.set(xlabel="layer", ylabel="share of weights, lowest level first", ylim=(0, 1))
    caption = "How many weights are at the lowest level of their group, at the next, and so on: over all layers after "
    return Chart("Levels", caption + "each stage, and in each layer after the last one.", svg(figure, "levels"))


def _flipped(layers: list[Layer]) -> Chart | None:
    shares = [layer.stages.get("layer", {}).get("flipped") for layer in layers]
    if not any(shares):
        return None
    figure, (axes,) = new_figure(1)
    for basis in range(max(len(one or ()) for one in shares)):
        dots(axes, [_at(one, basis) for one in shares], f"basis {basis + 1}", _color(basis))
    axes.set(xlabel="layer", ylabel="share of bits turned over", ylim=(0, 1))
    caption = "How many bits of each basis are others after the layer-wise stage than at its start."
    return Chart("Bits turned over", caption, svg(figure, "flipped"))


def _correlations(layers: list[Layer]) -> Chart | None:
    pairs = max(len(layer.last["density"]) for layer in layers) - 1
    if not pairs or all(layer.known("corr_paths") is None for layer in layers):
        return None
    figure, panels = new_figure(2)
    titles = ("corr_paths", "with the plane before"), ("corr_residual", "with what is left over for it")
    for axes, (key, label) in zip(panels, titles, strict=True):
        for pair in range(pairs):
            values = [_at(layer.known(key), pair) for layer in layers]
            dots(axes, values, f"plane {pair + 2}", _color(pair))
        axes.axhline(0, color="#8a94a6", linewidth=0.8)
        axes.set(xlabel="layer", ylabel=f"correlation {label}", ylim=(-1.05, 1.05))
    caption = (
        "Correlation of a plane's output with that of the plane before it, negative where it takes back what that one "
        "gave, and with what the planes before left over, 1 where it fits. With bits that are 0 or 1 the first is "
        "negative wherever a level is a difference of two scales."
    )
    return Chart("Paths", caption, svg(figure, "correlations"))


def _preference(preference: dict[str, Any]) -> Chart:
    models = {name: preference["models"][name] for name in (BEFORE, AFTER) if name in preference["models"]}
    quartiles = next(iter(models.values()))["quartiles"]
    figure, panels = new_figure(2)
    for axes, kind, label in zip(panels, ("argmax", "mass"), ("most likely token", "probability"), strict=True):
        shown = [("text", quartiles, "target", "#cbd2dc"), ("full precision", quartiles, f"teacher_{kind}", "#8a94a6")]
        for (name, table), color in zip(models.items(), SERIES_COLORS, strict=False):
            model = "quantized" if len(models) == 1 else f"quantized, {name}"
            shown.append((model, table["quartiles"], f"student_{kind}", color))
        series = [
            (name, [one[key][0] if one[key] else 0.0 for one in parts], color) for name, parts, key, color in shown
        ]
        bars(axes, ["surest", "2nd", "3rd", "least sure"], series)
        axes.set(xlabel="quarter by the teacher's entropy", ylabel=f"head share of the {label}", ylim=(0, 1.3))
    caption = (
        "How often the most likely token is one of the most frequent ones, which make half of the text, and how much "
        "probability they get, where the full-precision model is sure and where it is not. The most likely token alone "
        "overstates a quantized model that is merely less sure."
    )
    return Chart("Preference of frequent tokens", caption, svg(figure, "preference"))


def _landscape(landscape: dict[str, Any]) -> Chart:
    formats, factors = landscape["formats"], landscape["factors"]
    middle = len(factors) // 2
    figure, panels = new_figure(len(formats))
    rises = {
        name: [[loss - valley["losses"][middle][middle] for loss in row] for row in valley["losses"]]
        for name, valley in formats.items()
    }
    everything = [rise for rows in rises.values() for row in rows for rise in row]
    low = min(everything)
    high = max(everything) if max(everything) > low else low + 1.0
    levels = [low + (high - low) * i / CONTOURS for i in range(CONTOURS)] + [high]
    drawn = None
    for axes, (name, rows) in zip(panels, rises.items(), strict=True):
        drawn = axes.contourf(factors, factors, rows, levels=levels, cmap="viridis_r")
        axes.plot([factors[middle]], [factors[middle]], marker="+", color="black")
        first, second = formats[name]["parameters"]
        axes.set(xlabel=f"factor of {first}", ylabel=f"factor of {second}", title=name, aspect="equal")
        axes.grid(visible=False)
    assert drawn is not None
    figure.colorbar(drawn, ax=panels, label="rise of the loss, nats", format="%.3f", shrink=0.8)
    losses = ", ".join(f"{name} {valley['losses'][middle][middle]:.3f}" for name, valley in formats.items())
    mean = ", ".join(f"{name} {valley['rise']:.3f}" for name, valley in formats.items())
    caption = (
        f"The model's loss with {landscape['layer']} alone quantized, as its two level parameters are multiplied by "
        f"factors around 1. Loss at the center: full precision {landscape['full_precision']:.3f}, {losses}. Mean rise "
        f"over the picture: {mean}. Binary has one plane, the others two; parameters that mean different things are "
        "compared, so this is how much care each format's own parameters need, and no more."
    )
    return Chart("Landscape of the loss", caption, svg(figure, "landscape"))


def _at(values: list[float] | None, place: int) -> float | None:
    """The value at `place`, where there is one."""
    return values[place] if values and place < len(values) else None


def _color(place: int) -> str:
    return SERIES_COLORS[place % len(SERIES_COLORS)]


def _line(axes: "Axes", points: list[dict[str, Any]], key: str, label: str, color: str, **options: Any) -> None:
    known = [(point["tokens"], point[key]) for point in points if point.get(key) is not None]
    if known:
        tokens, values = zip(*known, strict=True)
        axes.plot(tokens, values, label=label, color=color, **options)


def _thousands(axes: "Axes") -> None:
    """Numbers on the x axis as 50k rather than 50000, few enough that they do not run into one another."""
    from matplotlib.ticker import EngFormatter

    axes.locator_params(axis="x", nbins=6)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
