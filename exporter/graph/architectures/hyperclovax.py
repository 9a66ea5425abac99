"""HyperCLOVA X: a Granite that multiplies logits where that one divides them, and may norm what its layers add."""

from typing import Any

from exporter.graph.architectures.post_norms import norm_outputs, stored_post_norms
from exporter.graph.architectures.stored_names import rename_stored

__all__ = ["adjust"]

_POST_NORMS = ("post_norm1", "post_norm2")


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Turn the factor of logits around, and put in the norms."""
    module.logits_scaling = 1 / config["logits_scaling"]
    if config["use_post_norm"]:
        for layer in module.model.layers:
            norm_outputs(layer, _POST_NORMS, config["hidden_size"], config["rms_norm_eps"])
        rename_stored(module, stored_post_norms(_POST_NORMS))
