"""Weight initializations: the first planes and scales of a layer, from its weight and perhaps from its inputs.

To add one: a file with a `WeightInit` (base.py), and a row in WEIGHT_INITS that makes it from its settings.

Those of FDB choose planes of 0 and 1 with free scales, those of QBB bases of -1 and 1; those that look at inputs do
either, as the format says, and numbers of evenly spaced levels too. QBB itself looks at none: there they are this
project's.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from calib.weight_init.activation import activation_weighted
from calib.weight_init.base import InitialWeight, InitSettings, WeightInit
from calib.weight_init.cascaded import cascaded
from calib.weight_init.data_free import closed_form, paper
from calib.weight_init.error_feedback import ErrorFeedback
from calib.weight_init.independent import independent
from calib.weight_init.random_signs import RandomSigns
from calib.weight_init.stored import from_planes
from dualbinary.contract.weight import PlaneFormat

__all__ = ["WEIGHT_INITS", "InitialWeight", "RegisteredInit", "WeightInit", "from_planes"]


@dataclass(frozen=True)
class RegisteredInit:
    """A row of the registry.

    Attributes:
        methods: those it serves, of "fdb" and "qbb"; and "even" for even levels.
        needs_inputs: it needs a hessian, and so text.
        text: one line for people.
        make: the initialization for settings and a seed.
    """

    methods: tuple[str, ...]
    needs_inputs: bool
    text: str
    make: Callable[[InitSettings, int], WeightInit]


def _of_weight_alone(
    methods: tuple[str, ...], text: str, function: Callable[[Tensor, PlaneFormat, str], InitialWeight]
) -> RegisteredInit:
    """The row of an initialization that needs neither inputs nor settings."""

    def initialize(weight: Tensor, _: Tensor | None, plane_format: PlaneFormat, name: str, /) -> InitialWeight:
        return function(weight, plane_format, name)

    return RegisteredInit(methods, needs_inputs=False, text=text, make=lambda _settings, _seed: initialize)


WEIGHT_INITS: dict[str, RegisteredInit] = {
    "paper": _of_weight_alone(("fdb",), "DB-LLM's: 2-bit proxy with clip search, then scales 2s and -s", paper),
    "fit": _of_weight_alone(("fdb", "even"), "least squares on the weights alone", closed_form),
    "activation": RegisteredInit(
        ("fdb", "qbb", "even"),
        needs_inputs=True,
        text="least squares weighted with the inputs' mean squares",
        make=lambda _settings, _seed: activation_weighted,
    ),
    "error-feedback": RegisteredInit(
        ("fdb", "qbb", "even"),
        needs_inputs=True,
        text="the metric of the inputs, errors fed into later columns",
        make=lambda settings, _seed: ErrorFeedback(settings.refits, settings.polishes, settings.damping),
    ),
    "cascaded": _of_weight_alone(("qbb",), "QBB's: each basis the signs of what those before left over", cascaded),
    "independent": _of_weight_alone(("qbb",), "every basis the weight's own signs", independent),
    "random": RegisteredInit(
        ("qbb",), needs_inputs=False, text="random signs", make=lambda _settings, seed: RandomSigns(seed)
    ),
}
