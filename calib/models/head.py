"""The head of a model, apart from it: logits of hidden states, a few tokens at a time."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from calib.layers import full_precision
from calib.models.blocks import autocast
from dualbinary import InputError

__all__ = ["Head", "head_of"]

PROBE = 4  # tokens that the head is tried on
# bfloat16 keeps 8 bits: two roundings of the same sum differ by 2^-8 of its size at most, and the sizes of a row's
# logits are compared; a forgotten factor or cap changes them by far more.
TOLERANCE = 2**-6


class Head(Protocol):
    """Logits [t, V] of hidden states [t, H]; `product` multiplies in the place of the full-precision weight."""

    def __call__(self, hidden: Tensor, product: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Differentiable in the hidden states."""
        ...


def head_of(model: PreTrainedModel, device: str, dtype: torch.dtype) -> tuple[Head, int]:
    """The head of a loaded `model` in full precision, and V.

    Products are made in `dtype`; the weight is converted once. Raises InputError where the model does something between
    its head and its logits that is not known here.
    """
    module, config = model.get_output_embeddings(), model.config.get_text_config()
    if not isinstance(module, torch.nn.Linear):
        raise InputError(f"{type(model).__name__}: its head is {type(module).__name__}, expected a linear layer")
    weight = module.weight.detach().to(dtype)
    bias = None if module.bias is None else module.bias.detach().to(dtype)
    factor = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)

    def head(hidden: Tensor, product: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        if product is None:
            logits = functional.linear(hidden.to(dtype), weight, bias)
        else:
            logits = product(hidden.to(dtype)) if bias is None else product(hidden.to(dtype)) + bias
        if factor != 1:
            logits = logits * factor
        return logits if cap is None else cap * torch.tanh(logits.float() / cap)

    _try(model, head, device, dtype)
    return head, len(weight)


@torch.no_grad()
def _try(model: PreTrainedModel, head: Head, device: str, dtype: torch.dtype) -> None:
    tokens = torch.arange(PROBE, device=device)[None]
    with full_precision(model), autocast(device, dtype):
        wanted = model(input_ids=tokens, use_cache=False).logits[0].float()
        found = head(model.base_model(input_ids=tokens, use_cache=False).last_hidden_state[0]).float()
    if not torch.allclose(found, wanted, rtol=0, atol=TOLERANCE * float(wanted.abs().max())):
        raise InputError(
            f"{type(model).__name__}: its logits are not its head's outputs; distillation does not know this head. "
            "Leave out the stage e2e with --stages init,block"
        )
