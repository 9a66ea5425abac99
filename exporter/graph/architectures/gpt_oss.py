"""gpt-oss.

1. The builder has the limits of an expert's gate as constants; config.json states them.
2. It mixes experts in float32, whatever type their outputs have.
"""

from typing import Any

__all__ = ["adjust"]

_FLOAT = 1  # ONNX's number for float32


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Apply cases 1 and 2 to the builder's module."""
    for layer in module.model.layers:
        moe = layer.mlp
        for expert in moe.experts:
            expert._ALPHA, expert._LIMIT = config["swiglu_alpha"], config["swiglu_limit"]
            expert.forward = _as_float(expert.forward)
        moe.gate.forward = _as_float_weights(moe.gate.forward)
        moe.forward = _as_given(moe.forward)


def _as_float(forward: Any) -> Any:
    return lambda op, hidden: op.Cast(forward(op, hidden), to=_FLOAT)


def _as_float_weights(forward: Any) -> Any:
    def weights(op: Any, hidden: Any) -> tuple[Any, Any]:
        routing, selected = forward(op, hidden)
        return op.Cast(routing, to=_FLOAT), selected

    return weights


def _as_given(forward: Any) -> Any:
    return lambda op, hidden: op.CastLike(forward(op, hidden), hidden)
