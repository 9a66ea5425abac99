"""Tables of rotary positions from transformers' own functions.

angle[position, i] = position * frequency[i]; its cosine and sine are multiplied by a scale. How frequencies and scale
follow from rope_parameters (linear, dynamic within the context, Llama 3, YaRN with all its options, LongRoPE, shares of
a head, one set for each type of layers) is asked of the rotary class of the model type in transformers, so the graph
cannot mean anything else. The builder's table of a plain rotation holds the same numbers, and stays.
"""

import inspect
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import nn

__all__ = ["Rotation", "length_notes", "put_in_rotations", "rotations"]

# The builder's names, by the type of the layers that rotate so; the first is also that of all layers alike.
_LAYER_TYPES = {
    "rotary_emb": "full_attention",
    "rotary_emb_global": "full_attention",
    "rotary_emb_local": "sliding_attention",
}
_ROTARY_CLASS = "RotaryEmbedding"


@dataclass(frozen=True)
class Rotation:
    """The rotation of all layers, or of those of one type.

    Attributes:
        kind: rope_type, by the name that the rotary class has for it.
        frequencies: float32 [rotated width / 2], of sequences up to `switch`.
        scale: factor of cosines and sines.
        long: frequencies of longer sequences; None where the rotation does not depend on the length.
        switch: the longest sequence that `frequencies` rotate, 0 for all.
    """

    kind: str
    frequencies: np.ndarray
    scale: float
    long: np.ndarray | None = None
    switch: int = 0


def rotations(config: Any) -> dict[str, Rotation]:
    """The rotations of transformers' configuration object, by type of layers; "" for one that all layers share."""
    rotary = _rotary_class(config)
    if rotary is None or not getattr(config, "rope_parameters", None):
        return {}
    module = rotary(config)
    if isinstance(module.rope_type, dict):
        return {
            layers: _rotation(config, kind, getattr(module, f"{layers}_inv_freq"), module, layers)
            for layers, kind in module.rope_type.items()
        }
    return {"": _rotation(config, module.rope_type, module.inv_freq, module, "")}


def length_notes(config: Any) -> list[str]:
    """What to tell of rotations of transformers' `config` that change beyond the context.

    Type "dynamic" stretches them by the length of the sequence from there on, anew at every token; up to there it is
    none. The export ends with the context, as its tables do.
    """
    if all(rotation.kind != "dynamic" for rotation in rotations(config).values()):
        return []
    return [
        f"made for {config.max_position_embeddings:,} tokens, the context, up to which rope_type dynamic changes "
        "nothing; longer sequences, whose positions transformers rotates by their length, are not run"
    ]


def put_in_rotations(module: Any, config: Any) -> None:
    """Replace the rotations of the builder's `module` by those of transformers' `config`."""
    found = rotations(config)
    owner = next((child for child in module.modules() if any(getattr(child, n, None) for n in _LAYER_TYPES)), None)
    if not found or owner is None:
        return
    for name, layers in _LAYER_TYPES.items():
        rotation, old = found.get(layers, found.get("")), getattr(owner, name, None)
        if rotation is None or old is None:
            continue
        width = len(rotation.frequencies)
        if rotation.kind != "default" or old.cos_cache.shape[1] != width:
            setattr(owner, name, _Tables(rotation, config.max_position_embeddings, old))
            for attention in _attentions(module, config, layers if layers in found else None, found.keys()):
                attention.rotary_embedding_dim = 0 if 2 * width == attention.head_dim else 2 * width


def _attentions(module: Any, config: Any, layers: str | None, rotated: Collection[str]) -> list[Any]:
    """The attention of all layers, or of those of one type, whose heads need not have the size of the others.

    Of the types of layers, those that are `rotated` have attention.
    """
    found = [child for child in module.modules() if hasattr(child, "rotary_embedding_dim")]
    if layers is None:
        return found
    kinds = [kind for kind in config.layer_types if kind in rotated]
    return [child for child, kind in zip(found, kinds, strict=True) if kind == layers]


class _Tables(nn.Module):
    """A rotation as the builder's models call it: cosines and sines [positions, width] of positions up to a length.

    A rotation with a switch has two tables in one, and takes rows of the second where any position lies beyond. It has
    the attributes by which the builder's own LongRoPE is known.
    """

    def __init__(self, rotation: Rotation, length: int, old: Any) -> None:
        super().__init__()
        self._dtype: ir.DataType = old._dtype
        self.has_long_cache = rotation.long is not None and rotation.switch < length
        self.original_max_position_embeddings = rotation.switch
        parts = [_angles(rotation.frequencies, rotation.switch if self.has_long_cache else length)]
        if rotation.long is not None and self.has_long_cache:
            parts.append(_angles(rotation.long, length))
        angles = np.concatenate(parts)
        self.cos_cache = _table("cos_cache", np.cos(angles) * np.float32(rotation.scale))
        self.sin_cache = _table("sin_cache", np.sin(angles) * np.float32(rotation.scale))

    def forward(self, op: Any, position_ids: ir.Value) -> tuple[ir.Value, ir.Value]:
        if self.has_long_cache:
            switch = self.original_max_position_embeddings
            longest = op.ReduceMax(position_ids, keepdims=False)
            beyond = op.Cast(op.Greater(longest, switch - 1), to=ir.DataType.INT64)
            position_ids = op.Add(position_ids, op.Mul(beyond, switch))
        tables = [op.Gather(table, position_ids) for table in (self.cos_cache, self.sin_cache)]
        if self._dtype != ir.DataType.FLOAT:
            tables = [op.Cast(table, to=self._dtype) for table in tables]
        return tables[0], tables[1]


def _angles(frequencies: np.ndarray, length: int) -> np.ndarray:
    return np.outer(np.arange(length, dtype=np.float32), frequencies).astype(np.float32)


def _table(name: str, values: np.ndarray) -> nn.Parameter:
    values = values.astype(np.float32)
    return nn.Parameter(list(values.shape), name=name, data=ir.tensor(values))


def _rotation(config: Any, kind: str, frequencies: torch.Tensor, module: Any, layers: str) -> Rotation:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scale = float(getattr(module, f"{layers}_attention_scaling" if layers else "attention_scaling"))
    if kind != "longrope":
        return Rotation(kind, frequencies.numpy(), scale)
    parameters = config.rope_parameters[layers] if layers else config.rope_parameters
    switch = int(parameters["original_max_position_embeddings"])
    long, _ = ROPE_INIT_FUNCTIONS[kind](config, None, seq_len=switch + 1, layer_type=layers or None)
    return Rotation(kind, frequencies.numpy(), scale, long.numpy(), switch)


def _rotary_class(config: Any) -> Any:
    """The rotary class beside the causal decoder of the configuration's type; None where it has no rotation."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM._model_mapping[type(config)]
    beside = vars(sys.modules[model.__module__])
    classes = [value for name, value in beside.items() if name.endswith(_ROTARY_CLASS) and inspect.isclass(value)]
    own = (each for each in classes if inspect.get_annotations(each.__init__).get("config") is type(config))
    return next(own, classes[0] if classes else None)  # others there are of images
