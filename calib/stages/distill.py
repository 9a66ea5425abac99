"""Distillation of the whole model from its full-precision self, end to end.

Teacher and student are one model (calib.layers.full_precision). What trains: the scales, those of vocabulary tables
among them, and, where the configuration gives them a rate, latents of layers that may move weights to other levels. The
loss is a mixture of those of calib.losses, which calib.stages.objective computes; Adam, with rates relative to each
layer's root mean square. In every step each block of the teacher may be the student's, with a probability that changes
over the steps; what is drawn depends on seed and step alone. Losses that decide anything are measured against the
teacher itself.

The state with the lowest loss on held-out windows wins; the one at the beginning counts too, so that this stage makes
nothing worse by its own measure. It is measured as it will be stored, with scales that float16 holds.

Every measurement also stores all there is (result "e2e" of the work directory): a run that is killed resumes at the
last one to the same result, bit for bit on a CPU.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from calib.layers import QuantLinear
from calib.models.blocks import recomputed
from calib.schedule import learning_rate, swap_probability
from calib.stages.context import RunContext
from calib.stages.objective import TERMS, DistillationObjective
from calib.student_weight import into_cells_of
from dualbinary import DualBinaryError

__all__ = ["DistillResult", "distill"]

RESULT = "e2e"  # in the work directory
BETAS = (0.9, 0.99)
CURVE_POINTS = 500  # of the record; longer runs are thinned out


@dataclass(frozen=True)
class DistillResult:
    """The result of the stage.

    Attributes:
        curve: for some steps {"step", "tokens", "seconds", "loss", "kl", ...} of the training windows, against the
            teacher as it was in that step, and "held_out" {"loss", ...} where it was measured; a step counts from 1, 0
            is the state before.
        best_step: the step whose state was kept.
        first_loss, best_loss: on held-out windows, before and at the best step; None where there are none.
    """

    curve: list[dict[str, Any]]
    best_step: int
    first_loss: float | None
    best_loss: float | None


def distill(context: RunContext, tokens: Tensor) -> DistillResult:
    """Train the layers of the model, which is loaded and has planes and scales, and leave them at the best state.

    `tokens` int [windows, T]; the last `held_out` are held out, the others are taken in a random order that depends on
    the seed, again and again. Raises DualBinaryError where the loss stops being finite.
    """
    config = context.config.e2e
    job = _Distillation(context, tokens)
    with recomputed(job.objective.blocks) if config.gradient_checkpointing else nullcontext():
        return job.run(context.config.seed, partial(context.progress, "e2e"))


class _Distillation:
    def __init__(self, context: RunContext, tokens: Tensor) -> None:
        self.config, self.work, self.team = context.config.e2e, context.work, context.team
        self.model = context.source.model
        self.tables = context.source.tables
        self.layers = [*context.source.linears.values(), *context.source.tables]
        self.objective = DistillationObjective(context.source, self.config, self.team.device, context.dtype)
        split = len(tokens) - self.config.held_out
        self.training, self.held_out = tokens[:split], tokens[split:]
        self.trained = self._prepare()
        groups = [{"params": [value], "rate": rate} for value, rate in self.trained.values()]
        self.optimizer = torch.optim.Adam(groups, lr=0.0, betas=BETAS, eps=1e-12, foreach=True)
        self.curve: list[dict[str, Any]] = []
        self.best_step, self.best_loss = 0, math.inf
        self.best: dict[str, Tensor] = {}
        self.seconds = 0.0

    def run(self, seed: int, progress: Callable[..., None]) -> DistillResult:
        steps, begin = self.config.steps, time.perf_counter()
        window = self.training.shape[1]
        step = self._restore()
        self.seconds, before = 0.0, self.seconds
        if step == 0:
            self._measure({"step": 0, "tokens": 0, "seconds": 0.0})
        while step < steps:
            chosen = self._windows(step, seed)
            probability = swap_probability(step, steps, self.config.swap, self.config.swap_schedule)
            for group in self.optimizer.param_groups:
                group["lr"] = group["rate"] * learning_rate(step, steps, self.config.warmup)
            figures = self._step(chosen, _drawn(len(self.objective.blocks), probability, seed, step))
            step += 1
            tokens = step * self.config.batch * window
            self.seconds = before + time.perf_counter() - begin
            entry = {"step": step, "tokens": tokens, "seconds": self.seconds, **figures}
            if not math.isfinite(figures["loss"]):
                raise DualBinaryError(
                    f"the loss is {figures['loss']} at step {step} of distillation; lower --e2e-scale-rate"
                )
            if step % self.config.evaluate_every == 0 or step == steps:
                self._measure(entry)
                self._store(step)
            else:
                self.curve.append(entry)
            progress(tokens, steps * self.config.batch * window, **figures)
        self._take_best()
        measured = [entry["held_out"]["loss"] for entry in self.curve if "held_out" in entry]
        first_loss, best_loss = (measured[0], self.best_loss) if measured else (None, None)
        return DistillResult(_thinned(self.curve), self.best_step, first_loss, best_loss)

    def _prepare(self) -> dict[str, tuple[nn.Parameter, float]]:
        """Everything that trains, by name, each with its relative rate times the layer's root mean square."""
        self.model.requires_grad_(requires_grad=False)
        trained: dict[str, tuple[nn.Parameter, float]] = {}
        for layer in self.layers:
            size = self.team.whole(layer.weight).float().square().mean().item() ** 0.5
            layer.scales.requires_grad_()
            trained[f"{layer.name}.scales"] = layer.scales, self.config.scale_rate * size
            if self.config.latent_rate and layer not in self.tables:
                _give_latent(layer)
                assert layer.latent is not None
                layer.latent.requires_grad_()
                trained[f"{layer.name}.latent"] = layer.latent, self.config.latent_rate * size
        return trained

    def _windows(self, step: int, seed: int) -> Tensor:
        """The windows of one step: each epoch goes through all of them in its own order."""
        count, batch = len(self.training), self.config.batch
        places = [divmod(place, count) for place in range(step * batch, (step + 1) * batch)]
        return self.training[torch.stack([_order(count, seed, epoch)[index] for epoch, index in places])]

    def _step(self, windows: Tensor, swapped: list[bool]) -> dict[str, float]:
        """One step of the optimizer on windows [batch, T]; returns the mean losses."""
        sums = dict.fromkeys(self.objective.terms, 0.0)
        factor = self.team.loss_factor / self.config.batch
        for part in self.team.share(windows).split(self.config.micro_batch):
            for name, value in self.objective.losses(part, factor=factor, swapped=swapped).items():
                sums[name] += value
        self.team.add_gradients([value for value, _ in self.trained.values()])
        self.optimizer.step()
        self.optimizer.zero_grad()
        totals = self.team.total(list(sums.values()))
        return {name: value / len(windows) for name, value in zip(sums, totals, strict=True)}

    @torch.no_grad()
    def _measure(self, entry: dict[str, Any]) -> None:
        """Measure the loss of held-out windows as the state would be stored; keep the state if it is the best."""
        self.curve.append(entry)
        if not len(self.held_out):
            self._keep(entry["step"], -math.inf)
            return
        exact = [layer.scales.detach().clone() for layer in self.layers]
        for layer in self.layers:
            layer.round_scales()
        entry["held_out"] = self._held_out_losses()
        if entry["held_out"]["loss"] < self.best_loss:
            self._keep(entry["step"], entry["held_out"]["loss"])
        for layer, scales in zip(self.layers, exact, strict=True):
            layer.scales.copy_(scales)

    def _held_out_losses(self) -> dict[str, float]:
        """Mean losses. Sharded processes must make equally many passes, so some window may be seen for nothing."""
        count, size = len(self.held_out), self.team.size
        sums = dict.fromkeys(self.objective.terms, 0.0)
        for begin in range(0, count, size):
            index = begin + self.team.rank
            found = self.objective.losses(self.held_out[index % count][None])
            for name, value in found.items():
                sums[name] += value if index < count else 0.0
        totals = self.team.total(list(sums.values()))
        return {name: value / count for name, value in zip(sums, totals, strict=True)}

    def _keep(self, step: int, loss: float) -> None:
        self.best_step, self.best_loss = step, loss
        for layer in self.layers:
            self.best[f"{layer.name}.scales"] = layer.scales.detach().clone()
            if layer.latent is not None:
                self.best[f"{layer.name}.planes"] = layer.current_planes()

    @torch.no_grad()
    def _take_best(self) -> None:
        for layer in self.layers:
            layer.scales.copy_(self.best[f"{layer.name}.scales"])
            layer.round_scales()
            if layer.latent is not None:
                layer.set_planes(self.best[f"{layer.name}.planes"])
        self.model.requires_grad_(requires_grad=False)

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor that a resumed run needs, by name."""
        for name, (value, _) in self.trained.items():
            yield f"value.{name}", value
            state = self.optimizer.state[value]
            for key in ("step", "exp_avg", "exp_avg_sq"):
                yield f"{key}.{name}", state[key]

    def _store(self, step: int) -> None:
        tensors = {name: self.team.whole(value) for name, value in self._state()}
        tensors |= {f"best.{name}": self.team.whole(value) for name, value in self.best.items()}
        if self.team.leads:
            figures = {"best_step": self.best_step, "best_loss": self.best_loss if len(self.held_out) else None}
            self.work.write_tensors(
                RESULT, tensors, {"step": step, "seconds": self.seconds, "curve": self.curve, **figures}
            )

    def _restore(self) -> int:
        """Take up what was stored, if anything, and return the number of steps done."""
        if not self.work.has(RESULT):
            return 0
        tensors, known = self.work.read_tensors(RESULT)
        for value, _ in self.trained.values():
            zeros = torch.zeros_like(value)
            self.optimizer.state[value] = {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
        for name, target in self._state():
            self.team.assign(target, tensors[name])
        self.curve, self.best_step, self.seconds = known["curve"], known["best_step"], known["seconds"]
        self.best_loss = -math.inf if known["best_loss"] is None else known["best_loss"]
        self._keep(self.best_step, self.best_loss)  # tensors of the right kind, to be filled
        for name, target in self.best.items():
            self.team.assign(target, tensors[f"best.{name}"])
        return known["step"]


def _order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of the training windows in one epoch."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def _drawn(count: int, probability: float, seed: int, step: int) -> list[bool]:
    """The blocks of `count` swapped in a step, drawn from seed and step alone, so that a resumed run draws the same."""
    random = torch.rand(count, generator=torch.Generator().manual_seed(seed * 998_244_353 + step))
    return (random < probability).tolist()


@torch.no_grad()
def _give_latent(layer: QuantLinear) -> None:
    """Latents as near to the full-precision weights as the planes that the layer has allow."""
    layer.set_latent(into_cells_of(layer.current_planes(), layer.full_weight, layer.stored_scales, layer.format))


def _thinned(curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most CURVE_POINTS entries and those with held-out figures; the losses between are averaged into them."""
    stride = -(-len(curve) // CURVE_POINTS)
    kept: list[dict[str, Any]] = []
    pending: list[dict[str, Any]] = []
    for entry in curve:
        pending.append(entry)
        if len(pending) >= stride or "held_out" in entry:
            means = {name: sum(one[name] for one in pending) / len(pending) for name in TERMS if name in pending[-1]}
            kept.append({**entry, **means})
            pending = []
    return kept
