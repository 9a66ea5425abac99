"""Falcon. The builder knows names of norms of one variant, and not how many norms and key/value heads a variant has."""

import dataclasses
from typing import Any

from exporter.graph.architectures.stored_names import rename_stored

__all__ = ["adjust", "configure"]

_TWO_NORMS = (None, 2)  # values of num_ln_in_parallel_attn in the newer architecture
_NORMS = {".input_layernorm.": ".ln_attn.", ".post_attention_layernorm.": ".ln_mlp."}


def configure(builder_config: Any, config: Any) -> Any:
    """The builder's configuration with the key/value heads and the norms of the variant."""
    heads = config.num_kv_heads if config.new_decoder_architecture or not config.multi_query else 1
    two_norms = config.new_decoder_architecture and config.num_ln_in_parallel_attn in _TWO_NORMS
    return dataclasses.replace(builder_config, num_key_value_heads=heads, dual_ln=two_norms)


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Rename the norms."""
    rename_stored(module, _NORMS)
