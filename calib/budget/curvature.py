"""How much the loss cares for what each layer puts out: squared gradients of the whole model in full precision.

The KL divergence from the full-precision model, for a small change d[t] of a layer's outputs at token t, is

    KL  ~  1/2 E[ ( sum over t of g[t] . d[t] )^2 ]         g = gradient of -log P[y],  y drawn from P

(Fisher's information is the Hessian of the KL at its minimum). One label y is drawn for each token, and one backward
pass gives g for all layers. Kept are, for each layer, the sums of g^2 over tokens, [N], and over outputs, [tokens].
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from calib.layers import QuantLinear, full_precision
from calib.losses import chunk_size, cross_entropy
from calib.models.blocks import autocast, recomputed
from calib.models.head import Head, head_of
from calib.stages.context import RunContext

__all__ = ["Curvature", "measure_curvature"]


@dataclass(frozen=True)
class Curvature:
    """Of one layer: `outputs` [N], mean of g^2 over tokens; `tokens` [windows, T], the sum of g^2 over outputs."""

    outputs: Tensor
    tokens: Tensor


def measure_curvature(context: RunContext, windows: Tensor) -> dict[str, Curvature]:
    """The curvature of all layers over `windows` int [count, T]; the model must be loaded, in full precision.

    Raises InputError for models whose head is not known (calib.models.head).
    """
    model, device, dtype = context.source.model, context.team.device, context.dtype
    layers = context.source.linears
    head, vocabulary = head_of(model, device, dtype)
    generator = torch.Generator(device).manual_seed(context.config.seed)
    outputs = {name: torch.zeros(layer.out_features, device=device) for name, layer in layers.items()}
    tokens = {name: torch.zeros(len(windows), windows.shape[1], device=device) for name in layers}
    place = 0

    def watch(layer: QuantLinear, _: object, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: see(layer.name, gradient))

    def see(name: str, gradient: Tensor) -> None:
        squares = gradient.float().square().flatten(0, -2)  # [tokens, N]; a layer of experts sees some tokens alone
        outputs[name] += squares.sum(0)
        if len(squares) == windows.shape[1]:
            tokens[name][place] += squares.sum(1)

    hooks = [layer.register_forward_hook(watch) for layer in layers.values()]
    blocks = [block for _, block in context.source.blocks]
    first = blocks[0].register_forward_pre_hook(_starts_gradients)
    try:
        for place, window in enumerate(windows):
            with full_precision(model), recomputed(blocks), torch.enable_grad(), autocast(device, dtype):
                hidden = model.base_model(
                    input_ids=window[None].to(device, torch.int64), use_cache=False
                ).last_hidden_state[0]
                hidden.backward(_gradient(hidden.detach(), head, chunk_size(vocabulary), generator).to(hidden.dtype))
            context.progress("sensitivity", (place + 1) * windows.shape[1], 3 * windows.numel())
    finally:
        for hook in (*hooks, first):
            hook.remove()
    count = windows.numel()
    return {name: Curvature(outputs[name].cpu() / count, tokens[name].cpu()) for name in layers}


def _starts_gradients(_: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """No parameter trains, so gradients have to begin at the hidden states that enter the first block."""
    return (args[0].detach().requires_grad_(), *args[1:]) if torch.is_grad_enabled() else None


def _gradient(hidden: Tensor, head: Head, chunk: int, generator: torch.Generator) -> Tensor:
    """D sum of -log P[y] / d hidden [T, H], for one y of each token, drawn from P."""
    parts = []
    for begin in range(0, len(hidden), chunk):
        part = hidden[begin : begin + chunk].clone().requires_grad_()
        logits = head(part).float()
        drawn = torch.multinomial(logits.detach().softmax(1), 1, generator=generator)[:, 0]
        (gradient,) = torch.autograd.grad(cross_entropy(logits, drawn).sum(), part)
        parts.append(gradient)
    return torch.cat(parts)
