"""Ways to start: planes and scales of a layer, from its weight and perhaps from what its inputs look like.

To add one: a file with a function of (weight, hessian, format, name), and a row in METHODS.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from calib.initialisers.activation import activation_weighted
from calib.initialisers.base import Initialised
from calib.initialisers.data_free import closed_form, paper
from calib.initialisers.error_feedback import ErrorFeedback
from calib.initialisers.stored import from_planes
from calib.layers import Format

__all__ = ["METHODS", "ErrorFeedback", "Initialised", "Method", "from_planes"]


@dataclass(frozen=True)
class Method:
    """A way to start: whether it needs text, and the function (weight [N, K], hessian [K, K], format, name)."""

    needs_inputs: bool
    text: str
    start: Callable[[Tensor, Tensor, Format, str], Initialised]


METHODS: dict[str, Method] = {
    "paper": Method(
        False, "DB-LLM's: 2-bit proxy with clip search, then scales 2s and -s", lambda w, _, f, n: paper(w, f, n)
    ),
    "fit": Method(False, "least squares on the weights alone", lambda w, _, f, n: closed_form(w, f, n)),
    "activation": Method(True, "least squares weighted with the inputs' mean squares", activation_weighted),
    "error-feedback": Method(True, "the metric of the inputs, errors fed into later columns", ErrorFeedback()),
}
