"""Gemma, Gemma 2, Gemma 3 (text).

1. Embeddings are multiplied by sqrt(hidden_size). The builder rounds the factor (to two decimals, or to float16), which
   moves logits by 1e-4; transformers computes it in the type of the activations.
2. Gemma 2 alternates sliding-window and full attention beginning with sliding; the builder begins with full. The layer
   types of config.json decide, with the published pattern where the file has none.
"""

import math
from typing import Any

__all__ = ["adjust"]


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Apply cases 1 and 2 to the builder's module."""
    text = module.model
    text.embed_tokens.embed_scale = math.sqrt(config["hidden_size"])
    if hasattr(text, "_is_local"):
        types = config.get("layer_types")
        text._is_local = lambda layer: types[layer] == "sliding_attention" if types else layer % 2 == 0
