"""DeepSeek V2 and V3, dots.llm1.

1. The builder looks for experts in one tensor; files hold them one by one.
2. transformers' configuration of V3 and of dots.llm1 does not say how experts are scored, as there is one way; the
   builder takes that of V2.
3. dots.llm1 normalizes queries and keys, and some of its layers have a window.
"""

import dataclasses
from typing import Any

import torch

from exporter.graph.architectures.layer_kinds import LayerKind, sliding_layers, use_layer_kinds

__all__ = ["adjust", "configure"]


def configure(builder_config: Any, config: Any) -> Any:
    """Case 2 and the norms of case 3."""
    if config.model_type == "deepseek_v2":
        return builder_config
    scored = dataclasses.replace(builder_config, scoring_func="sigmoid", topk_method="noaux_tc")
    return dataclasses.replace(scored, attn_qk_norm=True) if config.model_type == "dots1" else scored


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Case 1 and the windows of case 3."""
    preprocess = module.preprocess_weights

    def preprocess_single(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        mapped = preprocess(stored)
        return {name.replace(".mlp.experts.", ".mlp.moe.experts."): tensor for name, tensor in mapped.items()}

    module.preprocess_weights = preprocess_single
    if module.config.sliding_window:
        text, window = module.model, module.config.sliding_window
        kinds = [LayerKind(window if slides else None, text.rotary_emb) for slides in sliding_layers(module.config)]
        use_layer_kinds(text, kinds)
