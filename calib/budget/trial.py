"""Units tried out: the KL divergence of the whole model where one unit alone is quantized, which sets its estimates.

The estimate of sensitivity.py takes gradients of outputs and inputs to be independent, tokens too, and the loss to be
square in an error. That is right within a factor of two or three for most units, and 4 to 15 times too much for some:
products that make a few large activations, queries and keys whose errors a softmax bounds. So each unit is quantized
once, by the plain fit to three even planes, and all its estimates are multiplied by

    ( KL measured - KL of nothing + s ) / ( estimate of that fit + s )            s = half of the KL of nothing

where the KL of nothing is what products in bfloat16 alone make of a change that is none: it is there between any two
runs, grows with the blocks that are behind it, and says that smaller figures mean nothing.
"""

import torch
from torch import Tensor

from calib.layers import QuantLinear
from calib.losses import chunk_size, kl_divergence
from calib.models.blocks import autocast
from calib.models.head import head_of
from calib.stages.context import RunContext
from dualbinary import padded_k
from dualbinary.contract.scale_codes import scale_values
from dualbinary.contract.weight import PlaneFormat
from dualbinary.fitting.closed_form import fit

__all__ = ["Trials", "trial_form"]

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
        self._nothing = self._kl([first], EXACT)

    def ratio(self, layers: list[QuantLinear], estimate: float, block: int) -> float:
        """What `estimate`, that of `layers` in `trial_form`, is to be multiplied by; they are in block `block`."""
        blocks = len(self._context.source.blocks)
        floor = self._nothing * (blocks - block) / blocks
        measured = max(0.0, self._kl(layers, TRIED) - floor)
        tiny = torch.finfo(torch.float32).tiny
        return (measured + floor / 2 + tiny) / (estimate + floor / 2 + tiny)

    @torch.no_grad()
    def _hidden(self) -> Tensor:
        with autocast(self._context.team.device, self._context.dtype):
            return self._context.source.model.base_model(input_ids=self._window, use_cache=False).last_hidden_state[0]

    @torch.no_grad()
    def _kl(self, layers: list[QuantLinear], planes: int) -> float:
        before = [layer.format for layer in layers]
        for layer in layers:
            layer.format = trial_form(layer.in_features, planes)
            fitted = fit(layer.full_weight.cpu().numpy(), layer.format, name=layer.name).weight
            given = torch.from_numpy(fitted.planes), torch.from_numpy(scale_values(fitted.scales)).float()
            layer.set_quantized(*(part.to(layer.weight.device) for part in given))
        student = self._hidden()
        for layer, form in zip(layers, before, strict=True):
            layer.quantized, layer.format, layer.planes = False, form, None
        total = 0.0
        for begin in range(0, len(student), step := chunk_size(self._vocabulary)):
            mine, theirs = (self._head(hidden[begin : begin + step]) for hidden in (student, self._teacher))
            total += float(kl_divergence(theirs, mine).sum())
        return total / len(student)
