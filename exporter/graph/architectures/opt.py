"""OPT. Its LayerNorms use PyTorch's default epsilon, which config.json does not state and the builder takes as 1e-6."""

from typing import Any

__all__ = ["adjust"]

_EPSILON = 1e-5  # torch.nn.LayerNorm's default


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Set the epsilon of every LayerNorm."""
    for child in module.modules():
        if type(child).__name__ == "LayerNorm":
            child.eps = _EPSILON
