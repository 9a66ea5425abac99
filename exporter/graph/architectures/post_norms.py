"""Norms behind the parts of a decoder layer whose inputs the builder norms alone."""

from typing import Any

__all__ = ["norm_outputs", "stored_post_norms"]


def norm_outputs(layer: Any, names: tuple[str, str], size: int, epsilon: float) -> None:
    """Norm what attention, or what stands in its place, and the MLP of the builder's `layer` add to the stream.

    `names` are what the stored norms of either are called in a layer.
    """
    from mobius.components import RMSNorm

    for name in names:
        setattr(layer, name, RMSNorm(size, eps=epsilon))
    attention_norm, mlp_norm = (getattr(layer, name) for name in names)
    attend, mlp = layer.self_attn.forward, layer.mlp.forward

    def attend_and_norm(op: Any, **others: Any) -> Any:
        added, present = attend(op, **others)
        return attention_norm(op, added), present

    layer.self_attn.forward = attend_and_norm
    layer.mlp.forward = lambda op, hidden_states: mlp_norm(op, mlp(op, hidden_states))


def stored_post_norms(names: tuple[str, str]) -> dict[str, str]:
    """For `rename_stored`: the builder calls such norms by the part that runs them."""
    return {f".{name}.": f".{part}.{name}." for name, part in zip(names, ("self_attn", "mlp"), strict=True)}
