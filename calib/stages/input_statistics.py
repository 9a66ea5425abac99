"""The hessian of a layer's inputs, E[x x^T], and which layers of a block share their inputs."""

from collections.abc import Callable, Iterable
from contextlib import suppress

import torch
from torch import Tensor

from calib.layers import QuantLinear

__all__ = ["groups_by_input", "input_hessian"]


class _Reached(Exception):  # noqa: N818  # not an error: what was wanted has been seen
    """Ends a forward pass after the layer that was waited for."""


@torch.no_grad()
def groups_by_input(layers: list[QuantLinear], run: Callable[[], object]) -> list[list[QuantLinear]]:
    """The layers in the order in which `run` calls them; those that read the same tensor in one basis are one group.

    Layers that `run` does not call (experts without tokens) come last, each alone.
    """
    groups: list[list[QuantLinear]] = []
    read: list[Tensor] = []  # kept until the end, so that no tensor takes the identity of an earlier one

    def see(layer: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, QuantLinear)
        if any(layer in group for group in groups):
            return
        if groups and args[0] is read[-1] and layer.stored_rotation == groups[-1][0].stored_rotation:
            groups[-1].append(layer)
        else:
            groups.append([layer])
            read.append(args[0])

    handles = [layer.register_forward_pre_hook(see) for layer in layers]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    called = {id(layer) for group in groups for layer in group}
    return groups + [[layer] for layer in layers if id(layer) not in called]


@torch.no_grad()
def input_hessian(layer: QuantLinear, runs: Iterable[Callable[[], object]]) -> Tensor:
    """The hessian E[x x^T], float32 [K, K], of the inputs of `layer` in `runs`, each stopped once the layer has read.

    Inputs are those that the quantized weight multiplies, rotated where the layer is. Zeros where it is never called.
    """
    K = layer.in_features
    total = torch.zeros(K, K, device=layer.weight.device)
    count = 0

    def see(_: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        nonlocal count
        rows = layer.rotate(args[0]).reshape(-1, K).float()
        total.addmm_(rows.T, rows)
        count += len(rows)
        raise _Reached

    handle = layer.register_forward_pre_hook(see)
    try:
        for run in runs:
            with suppress(_Reached):
                run()
    finally:
        handle.remove()
    return total / max(count, 1)
