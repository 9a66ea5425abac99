"""What is tried on every family of models: on one of each kind in `make test`, on all of them in `make test-all`."""

from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["KINDS", "by_kind"]

KINDS = frozenset(
    [
        *("llama", "llama_tied", "llama_head20"),  # plain; one table; heads that GroupQueryAttention does not take
        *("gemma2", "gemma3_text", "gemma4_text"),  # norms behind layers, windows, two rotations, shared caches
        *("gpt2", "bloom", "gpt_neox"),  # learned positions, ALiBi, parallel halves of a block; joined projections
        *("phi3", "qwen2", "qwen3", "olmo2"),  # joined gate and up, biases, norms of heads, norms behind alone
        *("mixtral", "deepseek_v3", "gpt_oss"),  # experts, latent attention, sinks
        *("lfm2", "qwen3_5_text", "granitemoehybrid"),  # states in place of keys and values
    ]
)


def by_kind(cases: Iterable[str | tuple[str, ...]]) -> list[Any]:
    """The parameters of a test of every model, names or what begins with one; those that are not of KINDS are slow."""
    every = [(case,) if isinstance(case, str) else case for case in cases]
    return [pytest.param(*case, marks=[] if case[0] in KINDS else pytest.mark.slow) for case in every]
