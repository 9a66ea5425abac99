"""Units tried out: the KL divergence of the whole model where one unit alone is quantized, which sets its estimates.

The estimate of sensitivity.py takes gradients of outputs and inputs to be independent, errors of columns too, and the
loss to be square in an error. That orders the formats of a unit, and is up to fifteen times too large for some units:
queries and keys whose first token is unlike all others, products that make a few large activations. So each unit is
quantized once, by the run's own weight initialization to three even planes, and

    loss[f] = estimate[f] / estimate[trial] * second order * ( KL - KL of nothing + s ) / ( second order + s )

where the second order is 1/2 sum of F[n] D[n] H D[n]^T of the trial's very error D, and s half of the KL of nothing.
That is what products in bfloat16 alone make of a change that is none: it is there between any two runs, grows with the
blocks that are behind it, and says that smaller figures mean nothing.
"""

import torch
from torch import Tensor

from calib.layers import QuantLinear
from calib.losses import chunk_size, kl_divergence
from calib.models.blocks import autocast
from calib.models.head import head_of
from calib.stages.context import RunContext
from calib.weight_init.base import InitialWeight
from calib.weight_init.data_free import closed_form
from dualbinary import padded_k
from dualbinary.contract.weight import PlaneFormat

__all__ = ["TOKENS", "Trials", "trial_form"]

TOKENS = 256  # of a window
TRIED, EXACT = 3, 8  # planes: of a trial, and of one that changes nothing
GROUP = 64


def trial_form(K: int, planes: int = TRIED) -> PlaneFormat:
    """The format of a trial for K inputs."""
    group = next(size for size in (GROUP, 96, 32) if padded_k(K, 32) % size == 0)
    return PlaneFormat(planes, group, offset=True, levels="even")


class Trials:
    """Trials over the first tokens of a window int [T]; the model must be loaded, in full precision."""

    def __init__(self, context: RunContext, window: Tensor) -> None:
        """Run the full-precision model. Raises InputError where its head is not known."""
        self._context, self._window = context, window[:TOKENS].to(context.team.device, torch.int64)[None]
        self._head, self._vocabulary = head_of(context.source.model, context.team.device, context.dtype)
        self._teacher = self._hidden()
        first = next(iter(context.source.linears.values()))
        exact = trial_form(first.in_features, EXACT)
        self._nothing = self._kl([first], [closed_form(first.full_weight, exact, first.name)], exact)

    def loss(self, layers: list[QuantLinear], states: list[InitialWeight], second_order: float, block: int) -> float:
        """The loss of `layers` of block `block` in the `states` of `trial_form`, nats a token."""
        blocks = len(self._context.source.blocks)
        floor = self._nothing * (blocks - block) / blocks
        measured = max(0.0, self._kl(layers, states, trial_form(layers[0].in_features)) - floor)
        tiny = torch.finfo(torch.float32).tiny
        return second_order * (measured + floor / 2 + tiny) / (second_order + floor / 2 + tiny)

    @torch.no_grad()
    def _hidden(self) -> Tensor:
        with autocast(self._context.team.device, self._context.dtype):
            return self._context.source.model.base_model(input_ids=self._window, use_cache=False).last_hidden_state[0]

    @torch.no_grad()
    def _kl(self, layers: list[QuantLinear], states: list[InitialWeight], form: PlaneFormat) -> float:
        before = [layer.format for layer in layers]
        for layer, state in zip(layers, states, strict=True):
            layer.format = form
            layer.set_quantized(state.planes, state.scales)
        student = self._hidden()
        for layer, own in zip(layers, before, strict=True):
            layer.quantized, layer.format, layer.planes = False, own, None
        total = 0.0
        for begin in range(0, len(student), step := chunk_size(self._vocabulary)):
            mine, theirs = (self._head(hidden[begin : begin + step]) for hidden in (student, self._teacher))
            total += float(kl_divergence(theirs, mine).sum())
        return total / len(student)
