"""Drawing of pictures of a page: one style, SVG by matplotlib, text that stays text.

matplotlib is asked for when the first picture is drawn; names from files do not belong into one, since it reads some
characters as mathematics.
"""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dualbinary import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["NO_METADATA", "SERIES_COLORS", "STYLE", "bars", "dots", "new_figure", "positive_log", "svg"]

WIDTH, HEIGHT = 9.0, 3.2  # inches
SERIES_COLORS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#8a94a6")
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "grid.alpha": 0.3,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "dualbinary",  # ids that are the same in every run
}
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
IDS = re.compile(r'(id="|url\(#|href="#)')


def new_figure(panels: int) -> tuple["Figure", Sequence["Axes"]]:
    """A figure with `panels` axes side by side. Raises InputError where matplotlib is missing."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("--html: its pictures need matplotlib; pip install 'dualbinary[report]'") from None
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def svg(figure: "Figure", name: str) -> str:
    """The figure as an <svg> element, with legends; ids begin with `name`, since those of one page must differ."""
    from matplotlib import rc_context

    for axes in figure.axes:
        if handles := axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, frameon=False, ncols=1 + len(handles) // 5)
    file = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(file, format="svg", metadata=NO_METADATA, transparent=True)
    text = file.getvalue()
    return IDS.sub(rf"\g<1>{name}-", text[text.index("<svg") :])


def dots(axes: "Axes", values: Sequence[float | None], label: str, color: str) -> None:
    """A dot for each value that is known, at its place in the sequence."""
    known = [(place, value) for place, value in enumerate(values) if value is not None]
    if known:
        places, heights = zip(*known, strict=True)
        axes.plot(places, heights, linestyle="", marker=".", label=label, color=color)
        axes.locator_params(axis="x", integer=True)


def bars(axes: "Axes", names: Sequence[str], series: Sequence[tuple[str, Sequence[float], str]]) -> None:
    """Groups of bars under `names`: one of each series, (label, heights, color)."""
    width = 0.8 / len(series)
    for index, (label, heights, color) in enumerate(series):
        places = [place + (index - (len(series) - 1) / 2) * width for place in range(len(names))]
        axes.bar(places, heights, width, label=label, color=color)
    axes.set_xticks(range(len(names)), names)


def positive_log(axes: "Axes", values: Sequence[float | None]) -> None:
    """A logarithmic scale, where every value has a logarithm."""
    if all(value for value in values if value is not None):
        axes.set_yscale("log")
