"""Ways to start: planes and scales of a layer, from its weight and perhaps from what its inputs look like.

To add one: a file with a function of (weight, hessian, format, name), and a row in METHODS.

Starts of FDB choose planes of 0 and 1 with free scales, starts of QBB bases of -1 and 1; those that look at inputs do
either, as the format says. QBB itself looks at none: there they are ours.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from calib.layers import Format
from calib.weight_init.activation import activation_weighted
from calib.weight_init.base import Initialized
from calib.weight_init.cascaded import cascaded
from calib.weight_init.data_free import closed_form, paper
from calib.weight_init.error_feedback import ErrorFeedback
from calib.weight_init.independent import independent
from calib.weight_init.random_signs import RandomSigns
from calib.weight_init.stored import from_planes

__all__ = ["METHODS", "ErrorFeedback", "Initialized", "Method", "RandomSigns", "from_planes"]


@dataclass(frozen=True)
class Method:
    """A way to start: of which methods, whether it needs text, and the function.

    `start` takes a weight [N, K], second moments of its inputs [K, K], a format and the layer's name. The format's
    group size is a number, whatever K is.
    """

    of: tuple[str, ...]
    needs_inputs: bool
    text: str
    start: Callable[[Tensor, Tensor, Format, str], Initialized]


METHODS: dict[str, Method] = {
    "paper": Method(
        ("fdb",),
        needs_inputs=False,
        text="DB-LLM's: 2-bit proxy with clip search, then scales 2s and -s",
        start=lambda w, _, f, n: paper(w, f, n),
    ),
    "fit": Method(
        ("fdb",),
        needs_inputs=False,
        text="least squares on the weights alone",
        start=lambda w, _, f, n: closed_form(w, f, n),
    ),
    "activation": Method(
        ("fdb", "qbb"),
        needs_inputs=True,
        text="least squares weighted with the inputs' mean squares",
        start=activation_weighted,
    ),
    "error-feedback": Method(
        ("fdb", "qbb"),
        needs_inputs=True,
        text="the metric of the inputs, errors fed into later columns",
        start=ErrorFeedback(),
    ),
    "cascaded": Method(
        ("qbb",),
        needs_inputs=False,
        text="QBB's: each basis the signs of what those before left over",
        start=lambda w, _, f, n: cascaded(w, f, n),
    ),
    "independent": Method(
        ("qbb",),
        needs_inputs=False,
        text="every basis the weight's own signs",
        start=lambda w, _, f, n: independent(w, f, n),
    ),
    "random": Method(("qbb",), needs_inputs=False, text="random signs", start=RandomSigns()),
}
