"""Gemma, Gemma 2, Gemma 3 (text).

1. Embeddings are multiplied by sqrt(hidden_size). The builder rounds the factor (to two decimals, or to float16), which
   moves logits by 1e-4; transformers computes it in the type of the activations.
2. Gemma 3 divides scores by sqrt(query_pre_attn_scalar) and can cap logits, as Gemma 2 does; the builder does so for
   Gemma 2 alone. (Scores are not capped: transformers reads attn_logit_softcapping for Gemma 2 alone.)
"""

import math
from typing import Any

__all__ = ["adjust"]


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Apply cases 1 and 2 to the builder's module."""
    text = module.model
    text.embed_tokens.embed_scale = math.sqrt(config["hidden_size"])
    if config["model_type"] != "gemma3_text":
        return
    for layer in text.layers:
        layer.self_attn.scaling = config["query_pre_attn_scalar"] ** -0.5
    if config["final_logit_softcapping"]:
        _cap_logits(module, config["final_logit_softcapping"])


def _cap_logits(module: Any, cap: float) -> None:
    """Make logits of the builder's module cap * tanh(logits / cap)."""
    forward = module.forward

    def capped(op: Any, *args: Any, **kwargs: Any) -> Any:
        logits, present = forward(op, *args, **kwargs)
        return op.Mul(op.Tanh(op.Div(logits, cap)), cap), present

    module.forward = capped
