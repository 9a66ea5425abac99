"""Layer-wise binarization (QBB, NeurIPS 2024): the bases of one layer brought nearer to its weight, without any input.

    minimize   || W - sum over i of a[i] B[i] ||^2        over the bits B in {-1, 1} and the factors a of every group

closed-form    a by least squares for the bits there are, P x P for each group; then the bits by the nearest of the 2^P
               levels; again and again (the alternation of BCQ). Each step is the best there is while the other half
               stays, so the error of a group never rises. Groups that have stopped moving are left out. It ends in the
               valley it began in, so it begins three times, and a group takes the best: at the start, and with levels
               as far apart as fits a Gaussian group, or the group's largest weight, crowded towards the middle.
iterative      the paper's: round i trains the bits of basis i, by gradient descent through latents v with B = sign(v),
               all other bits stay; the factors train in every round.
simultaneous   the latents of all bases at once, as many steps in all.

The paper does not say what latents start from. From the signs themselves they would have to move by 1 to turn a bit
over: a short training turns none. Here they start from the residual that the basis was made for, by its factor,

    v[i] = B[i] * min(1, | W - sum over j < i of a[j] B[j] | / a[i])

for the cascaded start just the normalized residual: small where it does not matter much which sign it is. The gradient
passes straight through where |v| <= 1, and latents are kept there, so that every bit can turn. Gradients are taken in
units of what they belong to, so that rates fit every layer: dL/dv over 2 a^2, dL/da over 2 G. Adam would make all steps
equally long; then bits that are right but small turn as fast as those that are wrong. The best state of the layer is
kept; the start counts too, and both are judged as they are stored.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from calib.config import LayerConfig
from calib.quantizer import dequantize, grouped, levels_of, nearest, pack, sorted_levels, unpack
from calib.scale_parameters import checked_parameters, round_parameters, to_scales
from calib.schedule import learning_rate
from calib.weight_init.base import InitialWeight
from calib.weight_init.bases import from_bases, real_inputs, signs
from calib.weight_init.least_squares import solve
from dualbinary.contract.weight import PlaneFormat
from dualbinary.fitting.groups import CROWDED, GAUSSIAN_HALF_WIDTH

__all__ = ["BinarizeResult", "binarize"]

RIDGE = 1e-9  # in float64: decides nothing but groups whose bits leave a factor open


@dataclass(frozen=True)
class BinarizeResult:
    """The result of the stage for one layer.

    Attributes:
        state: planes, scales and latents.
        before, after: squared error over the weight's own square, at the start and now.
        flipped: for each basis the share of bits that differ from the start's.
    """

    state: InitialWeight
    before: float
    after: float
    flipped: list[float]


@torch.no_grad()
def binarize(
    weight: Tensor, start: InitialWeight, plane_format: PlaneFormat, config: LayerConfig, name: str
) -> BinarizeResult:
    """Bring the bases of `start` nearer to `weight` [N, K], float32. Raises InputError, naming `name`."""
    K, size = weight.shape[1], plane_format.group_size
    if config.solver == "closed-form":
        state = _closed_form(weight, start, plane_format, config.rounds)
    else:
        state = _descend(weight, start, plane_format, config, name)
    whole = float(weight.square().sum(dtype=torch.float64)) or 1.0

    def error(one: InitialWeight) -> float:
        difference = weight - dequantize(one.planes, one.scales, K, size, torch.float32)
        return float(difference.square().sum(dtype=torch.float64)) / whole

    before, after = error(start), error(state)
    if after > before:
        state, after = start, before
    changed = unpack(start.planes, K) != unpack(state.planes, K)
    return BinarizeResult(state, before, after, changed.float().mean((1, 2)).tolist())


def _closed_form(weight: Tensor, start: InitialWeight, plane_format: PlaneFormat, rounds: int) -> InitialWeight:
    factors = checked_parameters(plane_format, start.scales).clone()
    for inputs, groups in _whole_and_ragged(weight.shape[1], plane_format.group_size):
        part = factors[:, :, groups]
        values = weight[:, inputs].unflatten(1, (part.shape[2], -1)).flatten(0, 1)
        problem = _Groups(values, plane_format)
        best, least = part.flatten(1).double(), torch.full_like(values[:, 0], torch.inf, dtype=torch.float64)
        for begin in (best, *problem.crowded()):
            found = problem.alternate(begin, rounds)
            error = problem.error(found)
            best, least = torch.where(error < least, found, best), torch.minimum(error, least)
        factors[:, :, groups] = best.float().unflatten(1, part.shape[1:])
    factors = round_parameters(plane_format, factors)
    scales = to_scales(plane_format, factors)
    codes = nearest(weight, scales, plane_format.planes, plane_format.group_size)
    return InitialWeight(pack(codes, plane_format.planes, plane_format.group_size), scales, weight.clone())


def _whole_and_ragged(K: int, size: int) -> Iterator[tuple[slice, slice]]:
    """The full groups of a row, then the one in which the row ends: which inputs and which groups."""
    full = K // size
    if full:
        yield slice(0, full * size), slice(0, full)
    if K % size:
        yield slice(full * size, K), slice(full, full + 1)


class _Groups:
    """Groups [R, g] of weights, sorted once for all rounds.

    The weights of a level are then a run, whose sum is a difference of two prefix sums, so that a round costs what its
    levels cost and not what its weights do.
    """

    def __init__(self, values: Tensor, plane_format: PlaneFormat) -> None:
        self.format, self.planes = plane_format, plane_format.planes
        self.ordered = values.double().sort(1).values
        self.prefix = torch.cat([torch.zeros_like(self.ordered[:, :1]), self.ordered.cumsum(1)], 1)
        units = torch.eye(self.planes, dtype=torch.float64, device=values.device)
        self.uses = levels_of(
            to_scales(plane_format, units), self.planes
        )  # [2^P, P]: the sign of each factor in each level

    def crowded(self) -> tuple[Tensor, Tensor]:
        """Factors [P, R] to begin with, each CROWDED times the next, whose highest level is given."""
        ratio = CROWDED ** torch.arange(self.planes - 1, -1, -1, dtype=torch.float64, device=self.ordered.device)
        shares = (ratio / ratio.sum())[:, None]
        deviation = self.ordered.square().mean(1).sqrt()
        return shares * GAUSSIAN_HALF_WIDTH[self.planes - 1] * deviation, shares * self.ordered.abs().amax(1)

    def alternate(self, factors: Tensor, rounds: int) -> Tensor:
        """Factors [P, R] from those given, by least squares and nearest levels in turn."""
        result = factors.clone()
        moving = torch.arange(len(self.ordered), device=factors.device)
        before: Tensor | None = None
        for _ in range(rounds):
            table = sorted_levels(to_scales(self.format, result[:, moving]), self.planes)
            bounds, counts, sums = self._runs(table.cuts, moving)
            kept = (bounds != before).any(1) if before is not None else torch.ones_like(moving, dtype=torch.bool)
            moving, before = moving[kept], bounds[kept]
            if not len(moving):
                break
            used, counts, sums = self.uses[table.order.T[kept]], counts[kept], sums[kept]  # [R, 2^P, P], [R, 2^P]
            gram = (used * counts[..., None]).transpose(1, 2) @ used
            result[:, moving] = solve(gram, (used * sums[..., None]).sum(1), result[:, moving], RIDGE)
        return result

    def error(self, factors: Tensor) -> Tensor:
        """Squared error [R] with nearest levels, but for rounding."""
        table = sorted_levels(to_scales(self.format, factors), self.planes)
        _, counts, sums = self._runs(table.cuts, torch.arange(len(self.ordered), device=factors.device))
        levels = table.levels.T
        return self.ordered.square().sum(1) + (levels * (levels * counts - 2 * sums)).sum(1)

    def _runs(self, cuts: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where the run of each level begins and ends [R, 2^P + 1], its length and its sum [R, 2^P]."""
        ordered = self.ordered[chosen]
        ends = torch.searchsorted(ordered, cuts.T.contiguous(), right=True)
        bounds = torch.cat([torch.zeros_like(ends[:, :1]), ends, torch.full_like(ends[:, :1], ordered.shape[1])], 1)
        return bounds, bounds.diff(dim=1).double(), self.prefix[chosen].gather(1, bounds).diff(dim=1)


def _descend(
    weight: Tensor, start: InitialWeight, plane_format: PlaneFormat, config: LayerConfig, name: str
) -> InitialWeight:
    """By gradients, one basis after another or all at once."""
    K, size, count = weight.shape[1], plane_format.group_size, plane_format.planes
    real = real_inputs(K, plane_format, weight)
    target = grouped(weight, size)
    bases = torch.stack([signs(grouped(bits.float() - 0.5, size)) for bits in unpack(start.planes, K)]) * real
    job = _Descent(target, real, bases, checked_parameters(plane_format, start.scales).clone(), config)
    if config.solver == "iterative":
        for basis in range(count):
            job.run([basis], config.steps)
    else:
        job.run(list(range(count)), config.steps * count)
    return from_bases(weight, job.best_bases, job.best_factors, plane_format, name)


class _Descent:
    """Gradient descent for groups `target` [N, groups, G] with `bases` [P, ...] and `factors` [P, N, groups]."""

    def __init__(self, target: Tensor, real: Tensor, bases: Tensor, factors: Tensor, config: LayerConfig) -> None:
        self.target, self.real, self.config = target, real, config
        self.bases, self.factors = bases, factors
        self.best_bases, self.best_factors = bases, factors
        self.least = float("inf")

    def run(self, trained: list[int], steps: int) -> None:
        """Train the bits of the bases `trained`, and all factors, for `steps` steps, from the best state so far."""
        self.bases, self.factors = self.best_bases.clone(), self.best_factors.clone()
        latents = [self._latent(basis) for basis in trained]
        for step in range(steps + 1):
            for basis, latent in zip(trained, latents, strict=True):
                self.bases[basis] = signs(latent) * self.real
            error = torch.einsum("p...,p...g->...g", self.factors, self.bases) - self.target
            self._keep(float(error.square().sum(dtype=torch.float64)))
            if step == steps:
                return
            rate = learning_rate(step, steps)
            for basis, latent in zip(trained, latents, strict=True):
                moved = latent.addcdiv_(error, self._divisor(basis), value=-rate * self.config.latent_rate)
                moved.clamp_(-1, 1)
            slope = torch.einsum("...g,p...g->p...", error, self.bases) / self.real.sum(-1)
            self.factors.sub_(slope, alpha=rate * self.config.scale_rate)

    def _latent(self, basis: int) -> Tensor:
        earlier = torch.einsum("p...,p...g->...g", self.factors[:basis], self.bases[:basis])
        return self.bases[basis] * ((self.target - earlier) / self._divisor(basis)).abs().clamp_max(1)

    def _divisor(self, basis: int) -> Tensor:
        """The factor of a basis, [N, groups, 1], never 0."""
        factor = self.factors[basis][..., None]
        return torch.where(factor == 0, torch.inf, factor)

    def _keep(self, error: float) -> None:
        if error < self.least:
            self.least = error
            self.best_bases, self.best_factors = self.bases.clone(), self.factors.clone()
