"""NanoChat. Its rotation turns the other way round."""

from typing import Any

__all__ = ["adjust"]


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Negate the sines that each layer gets."""
    for layer in module.model.layers:
        layer.self_attn.forward = _backwards(layer.self_attn.forward)


def _backwards(forward: Any) -> Any:
    def turned(op: Any, *args: Any, position_embeddings: Any, **kwargs: Any) -> Any:
        cos, sin = position_embeddings
        return forward(op, *args, position_embeddings=(cos, op.Neg(sin)), **kwargs)

    return turned
