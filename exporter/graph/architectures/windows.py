"""Sliding windows: which keys the queries of each layer see, as transformers reads the configuration.

A class with a field sliding_window has one: in the layers that layer_types calls sliding where the class has that field
too, else in all of them. In a class without the field the key means nothing.
"""

from typing import Any

from dualbinary import InputError

__all__ = ["layer_windows", "put_in_windows"]

_SLIDING, _FULL = "sliding_attention", "full_attention"
_OTHERS = ("conv",)  # types of layers that attend to nothing


def layer_windows(values: dict[str, Any]) -> tuple[int, ...]:
    """The keys that a query sees in each layer, itself included; 0 for all. Empty for a class that has no windows."""
    if "sliding_window" not in values:
        return ()
    window = values["sliding_window"]
    types = values.get("layer_types") or [_SLIDING if window is not None else _FULL] * values["num_hidden_layers"]
    for kind in types:
        if kind not in (_SLIDING, _FULL, *_OTHERS):
            raise InputError(f"config.json: layer_types has {kind!r}; only {_SLIDING!r} and {_FULL!r} can be exported")
    if _SLIDING in types and not (isinstance(window, int) and window >= 1):
        raise InputError(f"config.json: sliding_window must be 1 or more for layers that have one, got {window!r}")
    return tuple((window or 0) if kind == _SLIDING else 0 for kind in types)


def put_in_windows(module: Any, windows: tuple[int, ...]) -> int:
    """Give the layers of the builder's `module` their windows; returns one that the graph leaves out, 0 for none.

    Models with masks for both types of layers are told the types. Where all layers share one window, no mask is built
    and the attention operator gets the number. The others get masks of their own here.
    """
    text = getattr(module, "model", None)
    if not windows or text is None:
        return 0
    if hasattr(text, "_is_local"):  # Gemma 2
        text._is_local = lambda layer: windows[layer] > 0
        return 0
    if getattr(text, "layer_types", None):  # Gemma 3, SmolLM3
        text.layer_types = [_SLIDING if window else _FULL for window in windows]
        text.sliding_window = max(windows) or text.sliding_window
        return 0
    if not any(windows):
        return 0
    if all(windows):
        return windows[0]
    _add_masks(text, windows)
    return 0


def _add_masks(text: Any, windows: tuple[int, ...]) -> None:
    """Have the model's layers with a window take a mask that has it, in place of the one that all share."""
    from mobius.components import create_attention_bias

    masks: dict[int, Any] = {}
    forward = text.forward

    def with_masks(op: Any, *, input_ids: Any, attention_mask: Any, **others: Any) -> Any:
        for window in sorted({window for window in windows if window}):
            masks[window] = create_attention_bias(
                op, input_ids=input_ids, attention_mask=attention_mask, sliding_window=window, dtype=text._dtype
            )
        return forward(op, input_ids=input_ids, attention_mask=attention_mask, **others)

    def windowed(layer: Any, window: int) -> Any:
        inner = layer.forward
        return lambda op, *, attention_bias, **others: inner(op, attention_bias=masks[window], **others)

    text.forward = with_masks
    for layer, window in zip(text.layers, windows, strict=True):
        if window:
            layer.forward = windowed(layer, window)
