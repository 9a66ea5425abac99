"""Decoder blocks run one at a time, each with the arguments that its model gives it.

A block takes hidden states and whatever else its model prepares: rotations, masks, biases of ALiBi, a window for this
layer and not for that. Rather than know every architecture, `record_calls` runs the model's own forward once with
blocks that only write down what they were given. Windows have equal lengths and no padding, so what was recorded for
one batch holds for every batch of that size: `check_calls` refuses the models of which that is not true.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from calib.models.shared_heads import explicit_attention
from calib.models.source import SourceModel
from dualbinary import InputError

__all__ = [
    "BlockCall",
    "autocast",
    "check_calls",
    "choose_attention",
    "compute_dtype",
    "outputs_visited",
    "recomputed",
    "record_calls",
]

# Up to this many tokens in a window, attention on a CPU is made of its own products and a softmax instead of PyTorch's
# fused kernel, which costs heads * T more numbers per token and block: a step of distillation takes a tenth less time.
EXPLICIT_ATTENTION = 512


@dataclass(frozen=True)
class BlockCall:
    """The arguments of one block beside the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Run `block` on hidden states [batch, T, H] and return those after it."""
        output = block(hidden, *self.args, **self.kwargs)
        return output if isinstance(output, Tensor) else output[0]


@torch.no_grad()
def record_calls(source: SourceModel, tokens: Tensor) -> tuple[Tensor, list[BlockCall]]:
    """The hidden states [batch, T, H] that enter the first block for `tokens` [batch, T], and each block's call.

    What lies outside the blocks, and the first block, must be loaded. Raises InputError where the model does not run
    its blocks one after another, each on what the one before returned.
    """
    first = source.blocks[0][1]
    calls: list[BlockCall] = []
    entering: list[Tensor] = []
    real = first.forward
    others: tuple[Any, ...] | None = None  # what a block returns beside the hidden states, if that is a tuple

    def record(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal others
        if not calls:
            entering.append(hidden)
            output = real(hidden, *args, **kwargs)
            others = None if isinstance(output, Tensor) else output[1:]
        in_order = len(calls) < len(blocks) and (hidden is entering[0] or torch.equal(hidden, entering[0]))
        if not in_order:
            raise _unfit(source, "does something between its blocks")
        calls.append(BlockCall(args, kwargs))
        return hidden if others is None else (hidden, *others)

    blocks = [block for _, block in source.blocks]
    with _forward_replaced(blocks, lambda _: record):
        source.model.base_model(input_ids=tokens, use_cache=False)
    if len(calls) != len(blocks):
        raise _unfit(source, f"runs {len(calls)} of its {len(blocks)} blocks")
    return entering[0], calls


def check_calls(source: SourceModel, tokens: Tensor) -> None:
    """Raise InputError where blocks are given more of the `tokens` [batch, T] than the hidden states."""

    def given(ids: Tensor) -> list[Any]:
        return [(call.args, call.kwargs) for call in record_calls(source, ids)[1]]

    others = (tokens + 1) % source.vocabulary
    if not _same(given(tokens), given(others)):
        raise _unfit(source, "gives its blocks more of the text than their hidden states")


def _same(left: Any, right: Any) -> bool:
    """Say that all tensors in two nested arguments are equal."""
    if isinstance(left, Tensor):
        return isinstance(right, Tensor) and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(value, right[key]) for key, value in left.items())
    if isinstance(left, (tuple, list)):
        return len(left) == len(right) and all(map(_same, left, right))
    return True


def _unfit(source: SourceModel, what: str) -> InputError:
    return InputError(
        f"{source.directory}: {source.config.get('model_type')} {what}, so its blocks cannot be calibrated one by one; "
        "initialize from the weights alone with --stages init --init-method fit, and go on with --stages e2e --start"
    )


@contextmanager
def _forward_replaced(
    blocks: list[nn.Module], replace: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    for block in blocks:
        block.forward = replace(block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own shows again


@contextmanager
def outputs_visited(blocks: list[nn.Module], visit: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """Within: where block i returns hidden states, `visit(i, hidden states)` continues in their place."""

    def hook(index: int) -> Callable[..., Any]:
        def run(_: nn.Module, __: Any, output: Any) -> Any:
            if isinstance(output, Tensor):
                return visit(index, output)
            return (visit(index, output[0]), *output[1:])

        return run

    handles = [block.register_forward_hook(hook(index)) for index, block in enumerate(blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def recomputed(blocks: list[nn.Module]) -> AbstractContextManager[None]:
    """Within: blocks keep their inputs only and compute again what their gradients need."""
    return _forward_replaced(blocks, _recomputed)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run


def compute_dtype(requested: str, device: str) -> torch.dtype:
    """The dtype of matrix products: as requested, or for "auto" bfloat16 where the device multiplies it natively."""
    if requested != "auto":
        return getattr(torch, requested)
    kind = torch.device(device).type  # one of several GPUs has a number: cuda:1
    if kind == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if native else torch.float32
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.float32


def choose_attention(source: SourceModel, device: str, length: int) -> None:
    """Let the model attend in the way that trains fastest on `device` for windows of `length` tokens."""
    if device == "cpu" and length <= EXPLICIT_ATTENTION:
        source.model.set_attn_implementation(explicit_attention(source.model))


def autocast(device: str, dtype: torch.dtype) -> torch.autocast:
    """Matrix products in `dtype`, everything else as it is."""
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32)
