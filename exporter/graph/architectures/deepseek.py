"""DeepSeek V2 and V3, dots.llm1, Youtu.

1. The builder looks for experts in one tensor; files hold them one by one.
2. transformers' configuration of V3 and of dots.llm1 does not say how experts are scored, as there is one way; the
   builder takes that of V2.
3. dots.llm1 normalizes queries and keys.
4. A rotation with mscale_all_dim scales the scores of latent attention, too.
"""

import dataclasses
import math
from typing import Any

import torch

__all__ = ["adjust", "configure"]


def configure(builder_config: Any, config: Any) -> Any:
    """Cases 2 and 3."""
    if config.model_type == "deepseek_v2":
        return builder_config
    scored = dataclasses.replace(builder_config, scoring_func="sigmoid", topk_method="noaux_tc")
    return dataclasses.replace(scored, attn_qk_norm=True) if config.model_type == "dots1" else scored


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Cases 1 and 4."""
    preprocess = module.preprocess_weights

    def preprocess_single(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        mapped = preprocess(stored)
        return {name.replace(".mlp.experts.", ".mlp.moe.experts."): tensor for name, tensor in mapped.items()}

    module.preprocess_weights = preprocess_single
    for layer in module.model.layers:
        if hasattr(layer.self_attn, "kv_lora_rank"):
            layer.self_attn.scaling *= _score_scale(config.get("rope_parameters") or {})


def _score_scale(rope: dict[str, Any]) -> float:
    """Case 4, as transformers computes it."""
    share, factor = rope.get("mscale_all_dim"), rope.get("factor", 1)
    if rope.get("rope_type", "default") == "default" or not share or factor <= 1:
        return 1.0
    return (0.1 * share * math.log(factor) + 1.0) ** 2
