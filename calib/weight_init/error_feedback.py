"""Planes and scales in the metric of the layer's inputs, the error of each weight fed into those that follow (GPTQ).

With H = E[x x^T] of the layer's inputs and U the upper Cholesky factor of H^-1, rounding the columns from left to right
and moving  -(w[c] - q[c]) / U[c,c] * U[c, c+1:]  into the columns to the right leaves, for a group of columns with the
diagonal block V of U, whatever is chosen in it, an error of

    || (w - q) V^-1 ||^2         after the best compensation by all later columns.

So for each group, in order: begin with weighted least squares with importances 1 / V[c,c]^2; sweep through its columns
with feedback; polish code by code (coordinate descent in this metric, M = V^-1 V^-T); solve the scales in this metric;
repeat, keep the best; then feed the error of the whole group into the later groups. GPTQ: arXiv 2210.17323; refitting
the coefficients of binary planes between sweeps is BPDQ's idea. The polish is this project's.

The latent of a weight is the value it had when it was rounded last, compensation of earlier errors included: training
that begins at the original weights instead gives that compensation away.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from calib.quantizer import SortedLevels, into_cells, levels_of, pack, sorted_levels
from calib.scale_parameters import round_parameters, to_parameters, to_scales
from calib.weight_init.base import InitialWeight
from calib.weight_init.least_squares import fitted_scales, refine, solve
from dualbinary.contract.weight import PlaneFormat

__all__ = ["ErrorFeedback", "inverse_factor"]

START_ROUNDS = 8  # of weighted least squares before the first sweep


@dataclass(frozen=True)
class ErrorFeedback:
    """Error feedback: rounds of new scales for a group, polishes in each round, share added to H's diagonal."""

    refits: int
    polishes: int
    damping: float

    def __call__(self, weight: Tensor, hessian: Tensor | None, plane_format: PlaneFormat, name: str) -> InitialWeight:
        """Quantize `weight` [N, K] for inputs with `hessian` [K, K], both float32.

        Raises InputError, naming `name`, where the weight is not finite.
        """
        N, K = weight.shape
        G = plane_format.group_size
        if hessian is None:
            raise TypeError("error feedback needs the hessian of the layer's inputs")
        factor = inverse_factor(hessian, self.damping)
        rest = weight.T.contiguous()  # [K, N]: a column of the weight is one run of memory
        codes = torch.empty(K, N, dtype=torch.uint8, device=weight.device)
        latent = torch.empty_like(rest)
        scales = torch.empty(plane_format.scale_rows, N, -(-K // G), device=weight.device)
        for group, begin in enumerate(range(0, K, G)):
            columns = slice(begin, min(begin + G, K))
            solution = self._group(rest[columns], factor[columns, columns], plane_format, name)
            codes[columns], latent[columns], scales[:, :, group] = solution.codes, solution.latent, solution.scales
            error = torch.linalg.solve_triangular(
                factor[columns, columns].T, rest[columns] - solution.values, upper=False
            )
            rest[columns.stop :] -= factor[columns, columns.stop :].T @ error
        codes = codes.T.contiguous()
        latent = into_cells(latent.T, codes, scales, plane_format.planes, G)
        return InitialWeight(pack(codes, plane_format.planes, G), scales, latent)

    def _group(self, weights: Tensor, factor: Tensor, plane_format: PlaneFormat, name: str) -> "_SolvedGroup":
        """The best codes and scales found for one group: weights [g, N], the block V [g, g] of the factor."""
        g = len(weights)
        eye = torch.eye(g, dtype=weights.dtype, device=weights.device)
        inverse = torch.linalg.solve_triangular(factor, eye, upper=True)
        metric = inverse @ inverse.T
        rows = weights.T.contiguous()  # [N, g]
        importance = (1 / factor.diagonal() ** 2)[None].expand_as(rows)
        scales, _ = refine(rows, importance, fitted_scales(rows, plane_format, name), plane_format, START_ROUNDS)
        best: _SolvedGroup | None = None
        least = torch.full((weights.shape[1],), torch.inf, device=weights.device)
        for _ in range(self.refits + 1):
            table = sorted_levels(scales, plane_format.planes)
            with _one_thread():
                state = _sweep(weights, table, factor)
                for _ in range(self.polishes):
                    _polish(state, weights, table, metric)
            codes = table.order.to(torch.uint8).gather(0, state.rank)
            scales = _refit(codes, rows, inverse, scales, plane_format)
            values = levels_of(scales, plane_format.planes).gather(0, codes.long())
            error = ((weights - values).T @ inverse).square().sum(1)
            better = error < least
            least = torch.where(better, error, least)
            found = _SolvedGroup(codes, state.latent, scales, values)
            best = found if best is None else best.merged(found, better)
        assert best is not None
        return best


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep operations on the CPU whole. Columns are short; threads would mostly wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of (H + damping * mean diagonal)^-1; an input that is always 0 stands alone."""
    hessian = hessian.clone()
    diagonal = hessian.diagonal()
    diagonal[diagonal == 0] = 1
    diagonal += damping * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian.double()))
    return torch.linalg.cholesky(inverse, upper=True).float()


@dataclass
class _SolvedGroup:
    codes: Tensor  # uint8 [g, N]
    latent: Tensor  # [g, N]
    scales: Tensor  # [C, N]
    values: Tensor  # [g, N]

    def merged(self, other: "_SolvedGroup", better: Tensor) -> "_SolvedGroup":
        """For each row the one of the two that `better` [N] says."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return _SolvedGroup(*(torch.where(better, theirs, mine) for mine, theirs in pairs))


@dataclass
class _State:
    rank: Tensor  # int64 [g, N], the place of each weight's level among the sorted ones
    values: Tensor  # [g, N]
    latent: Tensor  # [g, N]


def _round(value: Tensor, table: SortedLevels) -> tuple[Tensor, Tensor]:
    """Place and level of the nearest level for one column [N]."""
    rank = (value > table.cuts).sum(0)
    return rank, table.levels.gather(0, rank[None])[0]


def _sweep(weights: Tensor, table: SortedLevels, factor: Tensor) -> _State:
    """Round column after column, each error fed into the columns after it."""
    latent = weights.clone()
    rank = torch.empty(weights.shape, dtype=torch.int64, device=weights.device)
    values = torch.empty_like(weights)
    shares = factor / factor.diagonal()[:, None]
    for c in range(len(weights)):
        rank[c], values[c] = _round(latent[c], table)
        if c + 1 < len(weights):
            latent[c + 1 :].addr_(shares[c, c + 1 :], latent[c] - values[c], alpha=-1)
    return _State(rank, values, latent)


def _polish(state: _State, weights: Tensor, table: SortedLevels, metric: Tensor) -> None:
    """Give each column in turn the level that is best while all others stay: coordinate descent in `metric` [g, g]."""
    residual = metric @ (weights - state.values)  # [g, N]
    for c in range(len(weights)):
        wanted = state.values[c] + residual[c] / metric[c, c]
        rank, value = _round(wanted, table)
        residual.addr_(metric[c], state.values[c] - value)
        state.rank[c], state.values[c], state.latent[c] = rank, value, wanted


def _refit(codes: Tensor, rows: Tensor, inverse: Tensor, scales: Tensor, plane_format: PlaneFormat) -> Tensor:
    """The scales [C, N] that are best for `codes` [g, N] in the metric of the group, as float16 holds them."""
    features = [(codes >> plane & 1).T.to(rows.dtype) @ inverse for plane in range(plane_format.planes)]
    everything = inverse.sum(0).expand_as(features[0])
    if plane_format.symmetric:
        features = [2 * feature - everything for feature in features]  # of signs
    elif plane_format.offset:
        features.append(everything)
    used = torch.stack(features, 1)  # [N, free, g]
    target = (rows @ inverse)[..., None]
    free = solve(used @ used.transpose(1, 2), (used @ target)[..., 0], to_parameters(plane_format, scales))
    return to_scales(plane_format, round_parameters(plane_format, free))
