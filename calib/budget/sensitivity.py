"""What each format of each layer costs: the second-order estimate of KL, nats a token, block by block.

For a unit, the layers that read one value, with the curvature of its outputs (curvature.py) and of a format's error D,

    KL  ~  1/2 sum over outputs n of F[n] * D[n] H D[n]^T       H = sum over t of r[t] x[t] x[t]^T / sum over t of r[t]

F[n] is the mean of g[n]^2 and r[t] the sum of g[t]^2 over the unit's outputs: a token counts by how much the loss cares
for it, which takes the first tokens of a text, whose inputs are far larger than all others, back to their place.

D is that of the weight initialization which the run will use. Without inputs it is that of the fit itself. Where errors
are fed back in the metric A = E[x x^T], with U the upper Cholesky factor of A^-1, an error e[c] of rounding column c
leaves e[c] / U[c,c] * U[c], so that

    D H D^T  ~  sum over c of e[c]^2 (U H U^T)[c,c] / U[c,c]^2

with the e of the plain fit: no column is swept. Rows are independent, and some of each layer stand for all. A trial of
each unit in the whole model (trial.py) then sets the scale of its estimates.
Sources: HAWQ-V2 (arXiv 1911.03852) for the sum of curvature times error as what widths are chosen by, GPTQ
(arXiv 2210.17323) for what feedback leaves, GuidedQuant (arXiv 2505.07004) for gradients as weights of tokens.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from calib.budget.curvature import Curvature
from calib.budget.trial import Trials, trial_form
from calib.layers import QuantLinear, quant_linears
from calib.models.blocks import autocast, record_calls
from calib.stages.context import RunContext
from calib.stages.input_statistics import groups_by_input
from calib.student_weight import weight_of_planes
from calib.weight_init import WEIGHT_INITS
from calib.weight_init.error_feedback import inverse_factor
from dualbinary.contract.weight import PlaneFormat
from dualbinary.fitting.closed_form import fit

__all__ = ["ROWS", "Unit", "measure_units"]

ROWS = 96  # of each layer that stand for all


@dataclass(frozen=True)
class Unit:
    """Layers of one format: those that read one value, which an exported node multiplies with together.

    `losses` are the estimates for each format asked for, nats a token; `ratio` is what a trial multiplied them by.
    """

    layers: tuple[str, ...]
    losses: dict[PlaneFormat, float]
    ratio: float = 1.0


def measure_units(
    context: RunContext,
    windows: Tensor,
    curvature: dict[str, Curvature],
    forms_of: Callable[[QuantLinear], list[PlaneFormat]],
    done: int = 0,
    *,
    tried: bool = True,
) -> Iterator[list[Unit]]:
    """The units of one block after another, from block `done` on; the model must be loaded, in full precision.

    `forms_of` gives the formats of a layer; layers of a unit whose formats differ become units of their own. Units are
    `tried` over the first window.
    """
    source, device = context.source, context.team.device
    hidden, calls = record_calls(source, windows[:1].to(device))
    states = [record_calls(source, window[None].to(device))[0] for window in windows]
    total = windows.numel()
    trials = Trials(context, windows[0]) if tried else None
    for index, (_, block) in enumerate(source.blocks):

        def run(state: Tensor, block: torch.nn.Module = block, index: int = index) -> Tensor:
            with torch.no_grad(), autocast(device, context.dtype):
                return calls[index](block, state)

        if index >= done:
            meter = _Meter(context, curvature, trials, index)
            yield list(meter.units(quant_linears(block), [partial(run, state) for state in states], forms_of))
        states = [run(state).to(hidden.dtype) for state in states]
        context.progress("sensitivity", total + 2 * total * (index + 1) // len(source.blocks), 3 * total)


@dataclass(frozen=True)
class _Meter:
    """Estimates of block `index`."""

    context: RunContext
    curvature: dict[str, Curvature]
    trials: Trials | None
    index: int

    def units(
        self,
        layers: list[QuantLinear],
        forwards: list[Callable[[], Tensor]],
        forms_of: Callable[[QuantLinear], list[PlaneFormat]],
    ) -> Iterator[Unit]:
        """The units of `layers`, all those of the block, which `forwards` run."""
        init = self.context.config.init
        feeds_back = init.method == "error-feedback" and "init" in self.context.config.stages
        groups = groups_by_input(layers, forwards[0])
        for group, (plain, weighted) in zip(groups, _metrics(groups, forwards, self.curvature), strict=True):
            shares = None
            if feeds_back:
                factor = inverse_factor(plain, init.damping)
                shares = ((factor @ weighted) * factor).sum(1) / factor.diagonal() ** 2
            for alike in _of_equal_forms(group, forms_of):
                losses = {form: self._loss(alike, form, weighted, shares) for form in forms_of(alike[0])}
                ratio = self._ratio(alike, plain, weighted, shares) if len(losses) > 1 else 1.0
                losses = {form: ratio * loss for form, loss in losses.items()}
                yield Unit(tuple(layer.name for layer in alike), losses, ratio)

    def _loss(self, layers: list[QuantLinear], form: PlaneFormat, weighted: Tensor, shares: Tensor | None) -> float:
        """The estimate for `form`: of the plain fit, or where there are `shares`, of what feedback leaves."""
        total = 0.0
        for layer in layers:
            rows = torch.linspace(0, layer.out_features - 1, min(ROWS, layer.out_features)).long()
            weight = layer.full_weight[rows]
            cares = self.curvature[layer.name].outputs.to(weight.device)
            scale = float(cares.sum() / cares[rows].sum().clamp_min(torch.finfo(torch.float32).tiny))
            errors = _row_errors(weight, form, weighted, shares, layer.name)
            total += 0.5 * scale * float(cares[rows].double() @ errors)
        return total

    def _ratio(self, layers: list[QuantLinear], plain: Tensor, weighted: Tensor, shares: Tensor | None) -> float:
        """The loss that a trial shows by its estimate."""
        form = trial_form(layers[0].in_features)
        estimate = self._loss(layers, form, weighted, shares)
        if self.trials is None or not estimate:
            return 1.0
        init = self.context.config.init
        initialize = WEIGHT_INITS[init.method].make(init.model_copy(update={"refits": 0}), self.context.config.seed)
        states, second_order = [], 0.0
        for layer in layers:
            weight, metric = layer.full_weight, plain if WEIGHT_INITS[init.method].needs_inputs else None
            state = initialize(weight, metric, form, layer.name)
            error = weight - weight_of_planes(state.planes, state.scales, layer.in_features, form)
            cares = self.curvature[layer.name].outputs.to(weight.device)
            second_order += 0.5 * float(cares @ ((error @ weighted) * error).sum(1))
            states.append(state)
        return self.trials.loss(layers, states, second_order, self.index) / estimate


def _of_equal_forms(
    group: list[QuantLinear], forms_of: Callable[[QuantLinear], list[PlaneFormat]]
) -> Iterator[list[QuantLinear]]:
    found: dict[tuple[PlaneFormat, ...], list[QuantLinear]] = {}
    for layer in group:
        found.setdefault(tuple(forms_of(layer)), []).append(layer)
    yield from found.values()


def _row_errors(weight: Tensor, form: PlaneFormat, weighted: Tensor, shares: Tensor | None, name: str) -> Tensor:
    """D H D^T of each row of `weight` [R, K], float64 [R]."""
    fitted = fit(weight.cpu().numpy(), form, name=name).weight.dequantize()
    error = weight - torch.from_numpy(fitted).to(weight)
    if shares is not None:
        return (error.square() @ shares).double()
    return ((error @ weighted) * error).sum(1).double()


def _metrics(
    groups: list[list[QuantLinear]], forwards: list[Callable[[], Tensor]], curvature: dict[str, Curvature]
) -> list[tuple[Tensor, Tensor]]:
    """Of each group E[x x^T] of its inputs [K, K], and the same with each token as the loss cares for it."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, float] = {}
    place = 0  # of the window that is read
    cares = {group[0].name: torch.stack([curvature[layer.name].tokens for layer in group]).sum(0) for group in groups}

    def see(layer: QuantLinear, args: tuple[Tensor, ...]) -> None:
        name = layer.name
        rows = layer.rotate(args[0]).reshape(-1, layer.in_features).float()
        weights = cares[name][place].to(rows.device)
        if len(weights) != len(rows) or not float(weights.sum()):  # experts see some of the tokens
            weights = torch.ones(len(rows), device=rows.device)
        for key, value in (("plain", torch.ones_like(weights)), ("weighted", weights)):
            with torch.autocast(rows.device.type, enabled=False):
                one = rows.T @ (rows * value[:, None])
            known = sums.get(f"{name}.{key}")
            sums[f"{name}.{key}"] = one if known is None else known.add_(one)
            counts[f"{name}.{key}"] = counts.get(f"{name}.{key}", 0.0) + float(value.sum())

    hooks = [group[0].register_forward_pre_hook(see) for group in groups]
    try:
        for forward in forwards:
            forward()
            place += 1
    finally:
        for hook in hooks:
            hook.remove()
    found = []
    for group in groups:
        name, K = group[0].name, group[0].in_features
        eye = torch.eye(K, device=group[0].weight.device)
        found.append(
            tuple(
                sums[key] / counts[key] if (key := f"{name}.{kind}") in sums else eye for kind in ("plain", "weighted")
            )
        )
    return found
