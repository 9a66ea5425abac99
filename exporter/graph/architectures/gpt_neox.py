"""GPT-NeoX, GPT-NeoX-Japanese.

1. Their embedding and head have names that the builder does not tie.
2. The Japanese one says the width of its MLP as a multiple of the hidden size.
"""

import dataclasses
from typing import Any

import torch

__all__ = ["adjust", "configure"]

_EMBEDDINGS = ("gpt_neox.embed_in.weight", "gpt_neox_japanese.embed_in.weight")
_HEAD = "embed_out.weight"


def configure(builder_config: Any, config: Any) -> Any:
    """Case 2."""
    multiple = getattr(config, "intermediate_multiple_size", None)
    if multiple is None:
        return builder_config
    return dataclasses.replace(builder_config, intermediate_size=multiple * config.hidden_size)


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Case 1: give the head the embedding's tensor where config.json ties them."""
    if not module.config.tie_word_embeddings:
        return
    module.config = dataclasses.replace(module.config, tie_word_embeddings=False)
    preprocess = module.preprocess_weights

    def preprocess_tied(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        embedding = next((stored[name] for name in _EMBEDDINGS if name in stored), None)
        return preprocess(stored if embedding is None else {**stored, _HEAD: embedding})

    module.preprocess_weights = preprocess_tied
