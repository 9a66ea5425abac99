"""DeepSeek V2 and V3, dots.llm1, Youtu.

1. The builder looks for experts in one tensor; files hold them one by one.
2. It takes the way to score experts from values that transformers' configurations do not have: V2 never normalizes the
   scores, and there is one way for V3 and dots.llm1.
3. dots.llm1 normalizes queries and keys.
4. A rotation with mscale_all_dim scales the scores of latent attention, too.
5. The norms within latent attention have an epsilon of their own.
6. Routers score in float32, whatever type everything else has.
7. transformers (5.23) loads zeros for the padding token of a tied Youtu, whatever the file holds.
"""

import dataclasses
import math
from functools import partial
from typing import Any

import torch

from dualbinary import InputError

__all__ = ["adjust", "configure"]

_EPSILON = 1e-6
_FLOAT = 1  # ONNX's number for float32


def configure(builder_config: Any, config: Any) -> Any:
    """Cases 2 and 3. Raises InputError in case 7, where it is not clear which of the two models is meant."""
    if config.model_type == "youtu" and config.tie_word_embeddings and config.pad_token_id is not None:
        raise InputError(
            f"config.json: pad_token_id={config.pad_token_id} is not supported for a youtu with tied embeddings: "
            "transformers loads zeros in place of that token's row; remove pad_token_id to export the row of the file"
        )
    if config.model_type == "deepseek_v2":
        return dataclasses.replace(builder_config, norm_topk_prob=False)
    scored = dataclasses.replace(builder_config, scoring_func="sigmoid", topk_method="noaux_tc")
    return dataclasses.replace(scored, attn_qk_norm=True) if config.model_type == "dots1" else scored


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Cases 1 and 4 to 6."""
    preprocess = module.preprocess_weights

    def preprocess_single(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        mapped = preprocess(stored)
        return {name.replace(".mlp.experts.", ".mlp.moe.experts."): tensor for name, tensor in mapped.items()}

    module.preprocess_weights = preprocess_single
    for layer in module.model.layers:
        attention = layer.self_attn
        if hasattr(attention, "kv_lora_rank"):
            attention.scaling *= _score_scale(config["rope_parameters"])
            for norm in ("q_a_layernorm", "kv_a_layernorm"):
                if hasattr(attention, norm):
                    getattr(attention, norm).variance_epsilon = _EPSILON
        if hasattr(layer.mlp, "moe"):
            gate = layer.mlp.moe.gate
            gate._routing_scores = partial(_routing_scores, gate)
            gate.forward = _weights_as_given(gate.forward)


def _score_scale(rope: dict[str, Any]) -> float:
    """Case 4, as transformers computes it."""
    share, factor = rope.get("mscale_all_dim"), rope.get("factor", 1)
    if rope.get("rope_type", "default") == "default" or not share or factor <= 1:
        return 1.0
    return (0.1 * share * math.log(factor) + 1.0) ** 2


def _routing_scores(gate: Any, op: Any, hidden: Any) -> tuple[Any, Any]:
    """Scores of all experts, and the values by which they are chosen, float32 [batch, tokens, experts]."""
    weight = op.Transpose(op.Cast(gate.weight, to=_FLOAT), perm=[1, 0])
    logits = op.MatMul(op.Cast(hidden, to=_FLOAT), weight)
    if gate.scoring_func != "sigmoid":
        scores = chosen_by = op.Softmax(logits, axis=-1)
    else:
        scores = op.Sigmoid(logits)
        chosen_by = op.Add(scores, op.Cast(gate.e_score_correction_bias, to=_FLOAT))
    if gate.n_group > 1 and gate.topk_method != "greedy":
        chosen_by = gate._group_topk_selection(op, chosen_by)
    return scores, chosen_by


def _weights_as_given(forward: Any) -> Any:
    def routing(op: Any, hidden: Any) -> tuple[Any, Any]:
        weights, selected = forward(op, hidden)
        return op.CastLike(weights, hidden), selected

    return routing
