"""Decoder blocks run one at a time, each with the arguments that its model gives it.

A block takes hidden states and whatever else its model prepares: rotations, masks, biases of ALiBi, a window for this
layer and not for that. Rather than know every architecture, `record_calls` runs the model's own forward once with
blocks that only write down what they were given. Windows have equal lengths and no padding, so what was recorded for
one batch holds for every batch of that size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from calib.models.source import SourceModel

__all__ = ["BlockCall", "autocast", "compute_dtype", "record_calls"]


@dataclass(frozen=True)
class BlockCall:
    """The arguments of one block beside the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Run `block` on hidden states [batch, T, H] and return those behind it."""
        output = block(hidden, *self.args, **self.kwargs)
        return output if isinstance(output, Tensor) else output[0]


@torch.no_grad()
def record_calls(source: SourceModel, tokens: Tensor) -> tuple[Tensor, list[BlockCall]]:
    """The hidden states [batch, T, H] that enter the first block for `tokens` [batch, T], and each block's call.

    What lies outside the blocks, and the first block, must be loaded.
    """
    first = source.blocks[0][1]
    calls: list[BlockCall] = []
    entering: list[Tensor] = []
    real = first.forward
    returns_tensor = True

    def record(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal returns_tensor
        if not calls:
            entering.append(hidden)
            returns_tensor = isinstance(real(hidden, *args, **kwargs), Tensor)
        calls.append(BlockCall(args, kwargs))
        return hidden if returns_tensor else (hidden,)

    with _forward_replaced([block for _, block in source.blocks], record):
        source.model.base_model(input_ids=tokens, use_cache=False)
    return entering[0], calls


@contextmanager
def _forward_replaced(blocks: list[nn.Module], forward: Any) -> Iterator[None]:
    for block in blocks:
        block.forward = forward
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own shows again


def compute_dtype(requested: str, device: str) -> torch.dtype:
    """The dtype of matrix products: as requested, or for "auto" bfloat16 where the device multiplies it natively."""
    if requested != "auto":
        return getattr(torch, requested)
    if device == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if native else torch.float32
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.float32


def autocast(device: str, dtype: torch.dtype) -> torch.autocast:
    """Matrix products in `dtype`, everything else as it is."""
    return torch.autocast(device, dtype, enabled=dtype != torch.float32)
