"""How many tokens a check needs to see what the model declares, and which of these a machine can afford."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["STEPS", "Limit", "Plan", "plan"]

STEPS = 8
"""Tokens after a prompt that are fed one by one."""

_TOKENS = 40  # without anything declared: a prompt of 32, and the steps
_WINDOWS = 2  # windows that a sequence should hold: with one, the second layer sees what the first has left out
# What one pass of a model may take: half a minute to a minute on two cores, and attention scores of all heads of a
# layer, of which PyTorch holds about four copies.
_OPERATIONS = 3e12
_BYTES = 2 << 30
_SCORE_BYTES = 4 * 4
_LOGIT_BYTES = 3 * 4

_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
_WINDOW = ("sliding_window", "attention_chunk_size", "window_size")
_ROTATION = "original_max_position_embeddings"
_ROTATIONS = ("rope_scaling", "rope_parameters")
_BOUNDED_LAYERS = ("sliding", "chunked", "local")


@dataclass(frozen=True)
class Limit:
    """A length of config.json behind which a model computes otherwise.

    Attributes:
        name: the key of config.json.
        tokens: its value.
        wanted: length of a sequence that shows it.
        restarts: True where the keys of all tokens change with it, so that a host computes its cache anew (LongRoPE).
    """

    name: str
    tokens: int
    wanted: int
    restarts: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.tokens}"


@dataclass(frozen=True)
class Plan:
    """The longest sequence of a check, and the limits on both sides of it."""

    tokens: int
    reached: tuple[Limit, ...]
    not_reached: tuple[Limit, ...]

    @property
    def restart(self) -> int | None:
        """Tokens of the longest sequence with the first of two sets of rotation factors; None for one set."""
        return next((limit.tokens for limit in (*self.reached, *self.not_reached) if limit.restarts), None)


def plan(
    config: dict[str, Any], parameters: int, logit_width: int, tokens: int | None = None, positions: int | None = None
) -> Plan:
    """The plan for a model with the values `config` of config.json and so many parameters.

    `logit_width` is the length of the logits where the model gives those of every token, else 0. `tokens`, where it is
    given, is the length, whatever it takes; no length exceeds the model's context, nor `positions`, those that the file
    has tables for.
    """
    context = min(filter(None, (_first(config, _CONTEXT), positions)), default=None)
    declared = [limit for limit in dict.fromkeys(_limits(config)) if context is None or limit.tokens < context]
    lengths = {_TOKENS, *(limit.wanted for limit in declared), *(limit.tokens + STEPS for limit in declared)}
    if tokens is None:
        tokens = max(
            length for length in lengths if length == _TOKENS or _affordable(config, parameters, logit_width, length)
        )
    tokens = min(tokens, context or tokens)
    reached = tuple(limit for limit in declared if limit.tokens < tokens)
    return Plan(tokens, reached, tuple(limit for limit in declared if limit not in reached))


def _limits(config: dict[str, Any]) -> Iterator[Limit]:
    kinds = config.get("layer_types")
    bounded = not isinstance(kinds, list) or any(word in str(kind) for kind in kinds for word in _BOUNDED_LAYERS)
    for name in _WINDOW if bounded and config.get("use_sliding_window", True) else ():
        if window := _length(config.get(name)):
            yield Limit(name, window, _WINDOWS * window + STEPS)
    rotations = [value for key in _ROTATIONS if isinstance(value := config.get(key), dict)]
    rotations += [value for rotation in rotations for value in rotation.values() if isinstance(value, dict)]
    long = any("longrope" in (rotation.get("rope_type"), rotation.get("type")) for rotation in rotations)
    for values in (config, *rotations):
        if length := _length(values.get(_ROTATION)):
            yield Limit(_ROTATION, length, length + 2 * STEPS, restarts=long)


def _affordable(config: dict[str, Any], parameters: int, logit_width: int, tokens: int) -> bool:
    heads = _first(config, ("num_attention_heads", "n_head", "num_heads")) or 1
    width = _first(config, ("hidden_size", "n_embd")) or 1
    layers = _first(config, ("num_hidden_layers", "n_layer", "num_layers")) or 1
    operations = 2 * parameters * tokens + 4 * layers * width * tokens**2
    held = _SCORE_BYTES * heads * tokens**2 + _LOGIT_BYTES * logit_width * tokens
    return operations <= _OPERATIONS and held <= _BYTES


def _first(config: dict[str, Any], names: tuple[str, ...]) -> int | None:
    return next((value for name in names if (value := _length(config.get(name)))), None)


def _length(value: Any) -> int:
    """A length of config.json, 0 where it has none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
