"""Keys and values of a batch that a model writes, in memory that is taken once.

transformers' cache joins the keys and values of each token to those before it, a copy of everything for every token.
Here a layer has room for the whole sequence from the beginning, and a token is written behind the last. Numbers are
kept in the type of the products that read them.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

__all__ = ["make_room"]


def make_room(cache: Any, length: int, dtype: torch.dtype | None) -> None:
    """Give the layers of `cache`, as a model returned it, room for `length` tokens, in `dtype`, or their own if None.

    Layers that keep something else than all keys and values, such as those of a window, stay as they are.
    """
    layers = getattr(cache, "layers", [])
    for place, layer in enumerate(layers):
        if type(layer) is DynamicLayer and layer.keys is not None and layer.values is not None and layer.keys.ndim == 4:
            layers[place] = _RoomyLayer(layer.keys, layer.values, length, dtype)


class _RoomyLayer(DynamicLayer):
    """Keys and values [batch, heads, tokens, width], the first part of a larger tensor."""

    def __init__(self, keys: Tensor, values: Tensor, length: int, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.room = _with_room(keys, length, dtype), _with_room(values, length, dtype)
        self.count = keys.shape[2]
        self._show()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keep those of the next tokens and return all."""
        begin, self.count = self.count, self.count + key_states.shape[2]
        for kept, states in zip(self.room, (key_states, value_states), strict=True):
            kept[:, :, begin : self.count] = states
        return self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        """Make what there is the layer's keys and values, for what else transformers asks of them; and return it."""
        keys, values = (kept[:, :, : self.count] for kept in self.room)
        self.keys, self.values = keys, values
        return keys, values


def _with_room(kept: Tensor, length: int, dtype: torch.dtype | None) -> Tensor:
    """`kept` [batch, heads, n, width] as the first n of `length` places."""
    batch, heads, count, width = kept.shape
    room = kept.new_empty(batch, heads, length, width, dtype=dtype)
    room[:, :, :count] = kept
    return room
