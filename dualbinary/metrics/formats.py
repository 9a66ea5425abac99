"""Formats of quantized weights in words, and what has which: for reports and for people."""

from collections.abc import Iterable
from typing import Any

from dualbinary.contract.scale_codes import dtype_name
from dualbinary.contract.weight import EACH_GROUP, PER_CHANNEL, PlaneFormat

__all__ = ["count_formats", "format_words"]


def format_words(plane_format: PlaneFormat) -> str:
    """A format on one line, without its layout: "4 planes, G=32, even levels, zero 8, float16 scales"."""
    form = plane_format
    group = "one group a tensor" if form.per_tensor else f"G={form.group_size}"
    if form.group_size == PER_CHANNEL and not form.per_tensor:
        group = "one group a row"
    zero = ""
    if form.even and not form.offset:
        zero = "a zero for each group" if form.zero == EACH_GROUP else f"zero {form.zero:g}"
    planes = f"{form.planes} plane{'s' if form.planes > 1 else ''}"
    words = (planes, group, f"{form.levels} levels", zero, "offset" if form.offset else "")
    return ", ".join(filter(None, (*words, f"{dtype_name(form.scale_dtype)} scales")))


def count_formats(layers: Iterable[tuple[PlaneFormat, int, int]]) -> dict[str, dict[str, Any]]:
    """By words, the layers and weights that have a format, and bits stored for each of these weights.

    `layers` are format, weights and stored bits of each layer.
    """
    counts: dict[str, list[int]] = {}
    for form, weights, bits in layers:
        total = counts.setdefault(format_words(form), [0, 0, 0])
        for index, value in enumerate((1, weights, bits)):
            total[index] += value
    return {
        words: {"layers": layers, "weights": weights, "bits_per_weight": bits / weights}
        for words, (layers, weights, bits) in counts.items()
    }
