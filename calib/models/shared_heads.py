"""Attention of models whose heads share keys and values, without a copy of these for each head.

transformers' explicit ("eager") attention repeats keys and values for all heads that share them, which takes most of
the time where a model writes token by token. Here the heads that share are the rows of one product. Taken where the
model's own explicit attention is Llama's, letter for letter, as it is in most; the values are the same up to the order
of sums. The weights of attention, which that returns as well, nobody here asks for.
"""

import inspect
import sys
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask
from transformers.models.llama import modeling_llama

__all__ = ["explicit_attention"]

NAME = "dualbinary_shared_heads"


def explicit_attention(model: PreTrainedModel) -> str:
    """The name of the implementation with which `model` attends explicitly: this one, or transformers' own."""
    own = _source(getattr(sys.modules[type(model).__module__], "eager_attention_forward", None))
    return NAME if own and own == _source(modeling_llama.eager_attention_forward) else "eager"


def _source(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Of `query` [batch, heads, T, width] to `key` [batch, shared, n, width]; [batch, T, heads, width of `value`]."""
    batch, heads, count, width = query.shape
    shared = key.shape[1]
    scores = query.reshape(batch, shared, -1, width) @ key.transpose(2, 3) * scaling
    scores = scores.view(batch, heads, count, -1)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    found = weights.view(batch, shared, -1, weights.shape[-1]) @ value
    return found.view(batch, heads, count, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, eager_mask)
