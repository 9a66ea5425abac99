"""Ministral 3. Queries are scaled, a little more after each original_max_position_embeddings tokens."""

from typing import Any

__all__ = ["adjust"]


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Hand every layer the factor 1 + beta * log(1 + floor(position / length)), which its attention knows to apply."""
    rope = config["rope_parameters"]
    beta, length = rope.get("llama_4_scaling_beta"), rope.get("original_max_position_embeddings")
    if not beta or not length:
        return
    text = module.model
    factor: list[Any] = []
    forward = text.forward

    def with_factor(op: Any, *, position_ids: Any, **others: Any) -> Any:
        whole = op.Cast(op.Div(position_ids, int(length)), to=1)
        scale = op.Add(op.Mul(op.Log(op.Add(whole, 1.0)), float(beta)), 1.0)
        factor[:] = [op.Cast(op.Unsqueeze(scale, [2]), to=int(text._dtype))]
        return forward(op, position_ids=position_ids, **others)

    def scaled(layer: Any) -> Any:
        inner = layer.forward

        def with_tables(op: Any, *, position_embeddings: Any, **others: Any) -> Any:
            return inner(op, position_embeddings=(*position_embeddings[:2], factor[0]), **others)

        return with_tables

    text.forward = with_factor
    for layer in text.layers:
        layer.forward = scaled(layer)
