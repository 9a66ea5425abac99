"""Pictures of facts: bits by layer, sizes, densities.

Layers are on the axes by their number, since names come from files that others wrote, and matplotlib reads some
characters as mathematics; where a name is on an axis, these are taken out.
"""

from collections.abc import Sequence

from dualbinary.pages.drawing import SERIES_COLORS, dots, new_figure, svg
from dualbinary.pages.page import Chart
from importer.inspect.facts import Layer, ModelFacts, by_format, by_kind

__all__ = ["charts_of"]

SHOWN_KINDS = 12  # bars of sizes; what is smaller goes into one more
SHOWN_FORMATS = 4  # colors that are told apart; further formats share one


def charts_of(facts: ModelFacts) -> list[Chart]:
    """The pictures of a model. Raises InputError where matplotlib is missing."""
    charts = [_sizes(facts)]
    if facts.layers:
        charts.insert(0, _bits(facts.layers))
    read = [each for each in facts.layers if each.density]
    if read:
        charts.append(_densities(read))
    return charts


def _bits(layers: Sequence[Layer]) -> Chart:
    figure, (axes,) = new_figure(1)
    formats = list(by_format(layers))
    for place, form in enumerate(formats):
        values = [each.bits_per_weight if each.form == form else None for each in layers]
        label = _plain(form) if place < SHOWN_FORMATS else ("other formats" if place == SHOWN_FORMATS else "_")
        dots(axes, values, label, SERIES_COLORS[min(place, SHOWN_FORMATS)])
    top = max(each.bits_per_weight for each in layers)
    axes.set(xlabel="layer", ylabel="bits a weight, scales included", ylim=(0, 1.25 * top))
    return Chart(
        "Bits", "Bits stored for each weight of a layer, in the order of the model, by its format.", svg(figure, "bits")
    )


def _sizes(facts: ModelFacts) -> Chart:
    sizes = {kind: sum(each.bytes for each in layers) for kind, layers in by_kind(facts.layers).items()}
    sizes |= {f"{each.type} tensors": each.bytes for each in facts.others}
    ordered = sorted(sizes.items(), key=lambda entry: -entry[1])
    shown, rest = ordered[:SHOWN_KINDS], ordered[SHOWN_KINDS:]
    if rest:
        shown.append((f"{len(rest)} others", sum(size for _, size in rest)))
    figure, (axes,) = new_figure(1)
    names, heights = [_plain(name) for name, _ in shown], [size / 1e6 for _, size in shown]
    axes.barh(range(len(shown)), heights, color=SERIES_COLORS[0])
    axes.set_yticks(range(len(shown)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(xlabel="MB")
    for place, height in enumerate(heights):
        axes.annotate(f" {height:.1f}", (height, place), va="center", fontsize=8)
    axes.margins(x=0.08)
    return Chart(
        "Sizes",
        "What the file is made of: layers of the same name in all blocks together, and all other tensors by type.",
        svg(figure, "sizes"),
    )


def _densities(layers: Sequence[Layer]) -> Chart:
    figure, (ones, bits) = new_figure(2)
    from matplotlib.colors import to_hex  # there, or new_figure had refused

    planes = max(len(each.density or ()) for each in layers)
    for plane in range(planes):
        shares = [each.density[plane] if each.density and plane < len(each.density) else None for each in layers]
        shade = (0.17 + 0.6 * plane / max(planes - 1, 1), 0.42, 0.69 - 0.5 * plane / max(planes - 1, 1))
        color = to_hex(shade) if planes > len(SERIES_COLORS) else SERIES_COLORS[plane]
        dots(ones, shares, f"plane {plane + 1}", color)
    ones.set(xlabel="layer", ylabel="share of bits set", ylim=(0, 1))
    dots(bits, [float(len(each.density or ())) for each in layers], "planes", SERIES_COLORS[4])
    dots(bits, [each.entropy for each in layers], "entropy", SERIES_COLORS[0])
    bits.set(xlabel="layer", ylabel="bits a weight, without scales", ylim=(0, 1.25 * planes))
    caption = (
        "Left: how full each plane is. Right: the joint entropy of a weight's bits, below which no code of single "
        "weights gets, beside the planes that are stored."
    )
    return Chart("Planes", caption, svg(figure, "planes"))


def _plain(name: str) -> str:
    """A name without what matplotlib reads as mathematics, of a length that an axis has room for."""
    text = name.replace("$", "").replace("\\", "").lstrip("_")
    return text if len(text) <= 60 else f"{text[:59]}…"
