"""Gemma 4 (text).

1. Layers without a window have a head size and a number of key/value heads of their own. Where config.json states them,
   transformers keeps them by layer (per_layer_config), where the builder does not look.
"""

import dataclasses
from typing import Any

from dualbinary import InputError

__all__ = ["configure"]

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
            f"config.json: per_layer_config={given!r} is not supported for {read.model_type}; only {' and '.join(_OWN)} "
            "that all layers of one type share are"
        )
    changed: dict[str, Any] = {}
    for kind, names in ((_FULL, ("global_head_dim", "num_global_key_value_heads")), ("sliding_attention", _OWN)):
        if kind in found:
            changed |= dict(zip(names, next(iter(found[kind])), strict=True))
    return dataclasses.replace(builder_config, **changed)
