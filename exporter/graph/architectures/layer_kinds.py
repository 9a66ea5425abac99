"""Decoders whose layers differ: some attend within a window, some everywhere, and some do not rotate.

The builder's plain text model gives every layer the same mask and the same rotation. `use_layer_kinds` has it give each
layer its own, as config.json says; families that need it call it from their file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["LayerKind", "sliding_layers", "use_layer_kinds"]


@dataclass(frozen=True)
class LayerKind:
    """The attention of a layer.

    window: keys that a query sees, itself included; None for all.
    rotation: the builder's module that rotates by position; None for a layer that does not rotate.
    """

    window: int | None
    rotation: Any


def sliding_layers(config: Any) -> list[bool]:
    """Tell for each layer of the builder's `config` if it attends within the window."""
    types = config.layer_types or ["full_attention"] * config.num_hidden_layers
    return [kind == "sliding_attention" for kind in types]


def use_layer_kinds(text: Any, kinds: Sequence[LayerKind]) -> None:
    """Replace the forward method of the builder's text model by one that follows `kinds`, one for each layer."""
    from mobius.components import create_attention_bias

    def forward(
        op: Any, input_ids: Any, attention_mask: Any, position_ids: Any, past_key_values: Any = None, **unused: Any
    ) -> tuple[Any, list[Any]]:
        hidden = text.embed_tokens(op, input_ids)
        masks: dict[int | None, Any] = {}
        rotations: dict[int, Any] = {id(None): None}
        presents = []
        for layer, kind, past in zip(text.layers, kinds, past_key_values, strict=True):
            if kind.window not in masks:
                masks[kind.window] = create_attention_bias(
                    op,
                    input_ids=input_ids,
                    attention_mask=attention_mask,
                    sliding_window=kind.window,
                    dtype=text._dtype,
                )
            if id(kind.rotation) not in rotations:
                rotations[id(kind.rotation)] = kind.rotation(op, position_ids)
            hidden, present = layer(
                op,
                hidden_states=hidden,
                attention_bias=masks[kind.window],
                position_embeddings=rotations[id(kind.rotation)],
                past_key_value=past,
            )
            presents.append(present)
        return text.norm(op, hidden), presents

    text.forward = forward
    text._gqa_local_window_size = lambda: 0  # the masks say it
