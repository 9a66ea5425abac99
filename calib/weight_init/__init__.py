"""Weight initializations: the first planes and scales of a layer, from its weight and perhaps from its inputs.

To add one: a file with a `WeightInit` (base.py), and a row in WEIGHT_INITS that makes it from its settings. Rows are
read without torch, which `make` imports: a command's help and the errors of its options should not take seconds.

Those of FDB choose planes of 0 and 1 with free scales, those of QBB bases of -1 and 1; those that look at inputs do
either, as the format says, and numbers of evenly spaced levels too. QBB itself looks at none: there they are this
project's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from calib.weight_init.base import InitialWeight, InitSettings, WeightInit

if TYPE_CHECKING:
    from torch import Tensor

    from dualbinary.contract.weight import PlaneFormat

__all__ = ["WEIGHT_INITS", "InitialWeight", "RegisteredInit", "WeightInit"]


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


def _of_weight_alone(function: Callable[[Tensor, PlaneFormat, str], InitialWeight]) -> WeightInit:
    """An initialization that looks at no inputs."""

    def initialize(weight: Tensor, _: Tensor | None, plane_format: PlaneFormat, name: str, /) -> InitialWeight:
        return function(weight, plane_format, name)

    return initialize


def _paper(_settings: InitSettings, _seed: int) -> WeightInit:
    from calib.weight_init.data_free import paper

    return _of_weight_alone(paper)


def _fit(_settings: InitSettings, _seed: int) -> WeightInit:
    from calib.weight_init.data_free import closed_form

    return _of_weight_alone(closed_form)


def _activation(_settings: InitSettings, _seed: int) -> WeightInit:
    from calib.weight_init.activation import activation_weighted

    return activation_weighted


def _error_feedback(settings: InitSettings, _seed: int) -> WeightInit:
    from calib.weight_init.error_feedback import ErrorFeedback

    return ErrorFeedback(settings.refits, settings.polishes, settings.damping)


def _cascaded(_settings: InitSettings, _seed: int) -> WeightInit:
    from calib.weight_init.cascaded import cascaded

    return _of_weight_alone(cascaded)


def _independent(_settings: InitSettings, _seed: int) -> WeightInit:
    from calib.weight_init.independent import independent

    return _of_weight_alone(independent)


def _random(_settings: InitSettings, seed: int) -> WeightInit:
    from calib.weight_init.random_signs import RandomSigns

    return RandomSigns(seed)


WEIGHT_INITS = {
    "paper": RegisteredInit(("fdb",), False, "DB-LLM's: 2-bit proxy with clip search, then scales 2s and -s", _paper),
    "fit": RegisteredInit(("fdb", "even"), False, "least squares on the weights alone", _fit),
    "activation": RegisteredInit(
        ("fdb", "qbb", "even"), True, "least squares weighted with the inputs' mean squares", _activation
    ),
    "error-feedback": RegisteredInit(
        ("fdb", "qbb", "even"), True, "the metric of the inputs, errors fed into later columns", _error_feedback
    ),
    "cascaded": RegisteredInit(
        ("qbb",), False, "QBB's: each basis the signs of what those before left over", _cascaded
    ),
    "independent": RegisteredInit(("qbb",), False, "every basis the weight's own signs", _independent),
    "random": RegisteredInit(("qbb",), False, "random signs", _random),
}
