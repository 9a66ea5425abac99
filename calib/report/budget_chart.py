"""The picture of a budget: bits of each unit by its place in the blocks, and what each number of bits reaches."""

from typing import Any

from dualbinary.pages.drawing import SERIES_COLORS, dots, new_figure, positive_log, svg

__all__ = ["CAPTION", "budget_figure", "budget_sentence"]

CAPTION = (
    "Left: bits of a weight, scales included, of the layers that read one value, block by block. Right: the frontier, "
    "the KL divergence from the full-precision model that is predicted for every budget, "
    "by the sum of what was measured of each unit; the dot is this run's choice."
)


def budget_figure(budget: dict[str, Any]) -> str:
    """The figure as markup. Raises InputError where matplotlib is missing."""
    figure, (bits, reach) = new_figure(2)
    places: dict[int, list[dict[str, Any]]] = {}
    for unit in budget["units"]:
        if not _is_table(budget, unit):
            places.setdefault(unit["place"], []).append(unit)
    for index, units in enumerate(list(places.values())[: len(SERIES_COLORS)]):
        chosen = [unit["bits"][unit["chosen"]] for unit in units]
        dots(bits, chosen, f"place {index + 1} ({len(units[0]['modules'])} layers)", SERIES_COLORS[index])
    bits.set(xlabel="block", ylabel="bits a weight", ylim=(0, None))
    of_bits = budget.get("bits") is not None
    scale = 8 / budget["weights"] if of_bits else 1e-6
    points = [(size * scale, loss) for size, loss in budget["frontier"] if loss > 0]
    reach.plot(*zip(*points, strict=True), color=SERIES_COLORS[0], label="every budget")
    reach.plot([budget["bytes"] * scale], [budget["loss"]], "o", color=SERIES_COLORS[1], label="this run")
    positive_log(reach, [loss for _, loss in points])
    reach.set(xlabel="bits a weight" if of_bits else "MB of layers and tables", ylabel="predicted KL, nats a token")
    return svg(figure, "budget")


def budget_sentence(budget: dict[str, Any]) -> str:
    """What was asked, and what the choice is predicted to lose."""
    asked = f"{budget['bits']:g} bits" if budget.get("bits") is not None else f"{budget['size'] / 1e6:.3f} MB"
    return (
        f"budget of {asked}: layers at {budget['bits_per_weight']:.3f} bits, predicted KL {budget['loss']:.4f} nats a "
        f"token, at most {budget['gap']:.4f} above the best choice"
    )


def _is_table(budget: dict[str, Any], unit: dict[str, Any]) -> bool:
    """Tables are the last unit of a budget of bytes."""
    return budget.get("size") is not None and unit is budget["units"][-1]
