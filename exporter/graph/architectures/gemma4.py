"""Gemma 4 (text), and the text of its unified form, which has neither experts nor inputs of layers.

1. Layers without a window have a head size and a number of key/value heads of their own. Where config.json states them,
   transformers keeps them by layer (per_layer_config), where the builder does not look.
2. Experts have the activation of config.json and a scale each; the builder gives them SiLU, and no scale where it has
   one node for all. Here each is an MLP of its own, as the builder has them for other types, so that its weights are
   those of linear layers.
"""

import dataclasses
from functools import partial
from typing import Any

from dualbinary import InputError

__all__ = ["adjust", "configure"]

_FULL = "full_attention"
_OWN = ("head_dim", "num_key_value_heads")


def configure(builder_config: Any, read: Any) -> Any:
    """The builder's configuration with case 1. Raises InputError where layers of one type differ."""
    found: dict[str, set[tuple[int, ...]]] = {}
    given = read.to_dict().get("per_layer_config") or {}
    for index, kind in enumerate(read.layer_types):
        layer = read.per_layer_config[index]
        found.setdefault(kind, set()).add(tuple(getattr(layer, name) for name in _OWN))
    others = {name for values in given.values() for name in values} - set(_OWN)
    if others or any(len(sizes) > 1 for sizes in found.values()):
        raise InputError(
            f"config.json: per_layer_config={given!r} is not supported for {read.model_type}; only "
            f"{' and '.join(_OWN)} that all layers of one type share are"
        )
    changed: dict[str, Any] = {}
    for kind, names in ((_FULL, ("global_head_dim", "num_global_key_value_heads")), ("sliding_attention", _OWN)):
        if kind in found:
            changed |= dict(zip(names, next(iter(found[kind])), strict=True))
    return dataclasses.replace(builder_config, **changed)


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Apply case 2 to the builder's module."""
    if not config.get("enable_moe_block"):
        return
    for layer in module.model.layers:
        _give_experts(layer, config)
    module.preprocess_weights = partial(_with_single_experts, module.preprocess_weights)


def _give_experts(layer: Any, config: dict[str, Any]) -> None:
    """Have `layer` add what its experts make of the values before the MLP and its norm to what the MLP makes."""
    from mobius.components import GatedMLP
    from onnxscript import nn

    sizes = config["hidden_size"], config["moe_intermediate_size"], config["hidden_activation"]
    layer.experts = nn.ModuleList([GatedMLP(*sizes) for _ in range(config["num_experts"])])
    for stack in ("fc1_experts_weights", "fc2_experts_weights"):
        del layer._parameters[stack]
    layer._enable_moe_block = False  # the builder's own way
    norm, mlp, residual = layer.pre_feedforward_layernorm, layer.mlp, []

    def keep_and_norm(op: Any, hidden: Any) -> Any:
        residual[:] = [hidden]
        return norm(op, hidden)

    def mlp_and_experts(op: Any, hidden: Any) -> Any:
        rows = op.Reshape(residual[0], op.Constant(value_ints=[-1, config["hidden_size"]]))
        mixed = _mix_experts(layer, op, layer.pre_feedforward_layernorm_2(op, rows), layer.router(op, rows))
        mixed = layer.post_feedforward_layernorm_2(op, op.Reshape(mixed, op.Shape(hidden)))
        return op.Add(layer.post_feedforward_layernorm_1(op, mlp(op, hidden)), mixed)

    layer.pre_feedforward_layernorm, layer.mlp = keep_and_norm, mlp_and_experts


def _mix_experts(layer: Any, op: Any, hidden: Any, probabilities: Any) -> Any:
    """What experts make of `hidden` [tokens, H], weighted by `probabilities` [tokens, E] of the best ones."""
    best, index = op.TopK(probabilities, op.Constant(value_ints=[layer._top_k]), axis=-1, _outputs=2)
    best = op.Div(best, op.ReduceSum(best, [1], keepdims=1))
    best = op.Mul(best, op.CastLike(op.Gather(layer.router.per_expert_scale, index), best))
    weights = op.ScatterElements(op.Sub(probabilities, probabilities), index, best, axis=-1)
    total = None
    for number, expert in enumerate(layer.experts):
        weight = op.Gather(weights, op.Constant(value_ints=[number]), axis=1)
        part = op.Mul(expert(op, hidden), op.CastLike(weight, hidden))
        total = part if total is None else op.Add(total, part)
    return total


def _with_single_experts(preprocess: Any, stored: dict[str, Any]) -> dict[str, Any]:
    """`preprocess`, which gets the weights of single experts in place of stacks [E, outputs, inputs]."""
    single: dict[str, Any] = {}
    for name, tensor in stored.items():
        experts, _, kind = name.rpartition(".")
        if not experts.endswith(".experts"):
            single[name] = tensor
            continue
        parts = ("gate_proj", "up_proj") if kind == "gate_up_proj" else (kind,)
        rows = tensor.shape[1] // len(parts)
        for number in range(tensor.shape[0]):
            for place, part in enumerate(parts):
                single[f"{experts}.{number}.{part}.weight"] = tensor[number, place * rows : (place + 1) * rows]
    return preprocess(single)
