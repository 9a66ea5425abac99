"""Block-wise reconstruction: one block of the student learns to give what the teacher's block gives.

    minimize   mean over tokens of  || student(x') - teacher(x) ||^2 / || teacher(x) ||^2

over the latents and scales of the block; x' are the hidden states that the quantized blocks before it made, x those of
the full-precision model. Dividing by each token's own norm keeps the few enormous ones (the first token of many models)
from ruling the sum. Two input streams and training everything at once: EfficientQAT (arXiv 2407.11062).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from calib.config import BlockConfig
from calib.layers import QuantLinear
from calib.losses import feature_error
from calib.schedule import learning_rate
from dualbinary import DualBinaryError

__all__ = ["Reconstruction", "reconstruct"]

BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class Reconstruction:
    """The held-out error of a block before and after."""

    before: float
    after: float


def reconstruct(
    run: Callable[[Tensor], Tensor],
    layers: list[QuantLinear],
    inputs: Tensor,
    targets: Tensor,
    config: BlockConfig,
    seed: int,
    progress: Callable[[float, float], None],
) -> Reconstruction:
    """Train latents and scales of `layers`, in place, and freeze them into planes with scales of the stored type.

    `run` maps hidden states [batch, T, H] through the student's block. `inputs` and `targets` [windows, T, H] may be
    memory-mapped; the last `config.held_out` windows are held out. `progress` is told the share done and the loss.
    Where training made the held-out error no smaller, the layers keep the planes and scales they came with.
    Raises DualBinaryError where the loss stops being finite.
    """
    trained = len(inputs) - config.held_out
    held_out = range(trained, len(inputs), config.batch)
    before = _mean_error(run, inputs, targets, held_out, config.batch)
    if not layers:  # all of the block keeps full precision
        return Reconstruction(before, before)
    groups = []
    for layer in layers:
        size = layer.weight.float().square().mean().sqrt().item()
        groups.append({"params": [layer.latent], "rate": config.latent_rate * size})
        groups.append({"params": [layer.scales], "rate": config.scale_rate * size})
    optimizer = torch.optim.Adam(groups, lr=0.0, betas=BETAS, eps=1e-12, foreach=True)
    initial = [(layer.current_planes(), layer.stored_scales.detach().clone()) for layer in layers]
    steps_per_epoch = trained // config.batch
    steps = config.epochs * steps_per_epoch
    losses: list[float] = []
    generator = torch.Generator().manual_seed(seed)
    for _ in range(config.epochs):
        order = torch.randperm(trained, generator=generator)[: steps_per_epoch * config.batch]
        for chosen in order.view(-1, config.batch):
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * learning_rate(len(losses), steps)
            loss = _error(run(inputs[chosen]), targets[chosen])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise DualBinaryError(
                    f"{layers[0].name}: the reconstruction error is {losses[-1]} at step {len(losses)}; "
                    "lower --block-latent-rate and --block-scale-rate"
                )
            progress(len(losses) / steps, losses[-1])
    for layer in layers:
        layer.freeze()
    after = _mean_error(run, inputs, targets, held_out, config.batch)
    if not after < before:
        for layer, (planes, scales) in zip(layers, initial, strict=True):
            layer.set_quantized(planes, scales)
        after = before
    return Reconstruction(before, after)


def _error(found: Tensor, wanted: Tensor) -> Tensor:
    return feature_error(found, wanted.to(found.device)).mean()  # targets stay in their file until they are needed


@torch.no_grad()
def _mean_error(run: Callable[[Tensor], Tensor], inputs: Tensor, targets: Tensor, starts: range, batch: int) -> float:
    parts = [slice(begin, min(begin + batch, starts.stop)) for begin in starts]
    errors = [_error(run(inputs[part]), targets[part]).item() * (part.stop - part.start) for part in parts]
    return sum(errors) / (starts.stop - starts.start)
