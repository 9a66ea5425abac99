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
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from calib.even_quantizer import with_zeros
from calib.quantizer import pack
from calib.scale_parameters import round_parameters, to_parameters, to_scales
from calib.student_weight import into_cells_of
from calib.weight_init.base import InitialWeight
from calib.weight_init.even_groups import even_features
from calib.weight_init.least_squares import solve
from calib.weight_init.level_table import LevelTable, level_table, start
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
        if hessian is None:
            raise TypeError("error feedback needs the hessian of the layer's inputs")
        return self.solve(weight, inverse_factor(hessian, self.damping), plane_format, name)

    def solve(self, weight: Tensor, factor: Tensor, plane_format: PlaneFormat, name: str) -> InitialWeight:
        """The same for the factor [K, K] of a hessian (`inverse_factor`); outputs are independent of one another."""
        N, K = weight.shape
        G = plane_format.group_size
        rest = weight.T.contiguous()  # [K, N]: a column of the weight is one run of memory
        codes = torch.empty(K, N, dtype=torch.uint8, device=weight.device)
        latent = torch.empty_like(rest)
        scales = torch.empty(plane_format.scale_rows, N, -(-K // G), device=weight.device)
        zeros: list[Tensor] = []
        for group, begin in enumerate(range(0, K, G)):
            columns = slice(begin, min(begin + G, K))
            solution = self._group(rest[columns], factor[columns, columns], plane_format, name)
            codes[columns], latent[columns], scales[:, :, group] = solution.codes, solution.latent, solution.scales
            zeros += [] if solution.zeros is None else [solution.zeros]
            error = torch.linalg.solve_triangular(
                factor[columns, columns].T, rest[columns] - solution.values, upper=False
            )
            rest[columns.stop :] -= factor[columns, columns.stop :].T @ error
        planes = pack(codes.T.contiguous(), plane_format.planes, G)
        planes = with_zeros(planes, torch.stack(zeros, 1) if zeros else None)
        return InitialWeight(planes, scales, into_cells_of(planes, latent.T, scales, plane_format))

    def _group(self, weights: Tensor, factor: Tensor, plane_format: PlaneFormat, name: str) -> "_SolvedGroup":
        """The best codes and scales found for one group: weights [g, N], the block V [g, g] of the factor."""
        g = len(weights)
        eye = torch.eye(g, dtype=weights.dtype, device=weights.device)
        inverse = torch.linalg.solve_triangular(factor, eye, upper=True)
        metric = inverse @ inverse.T
        rows = weights.T.contiguous()  # [N, g]
        importance = (1 / factor.diagonal() ** 2)[None].expand_as(rows)
        scales, zeros = start(rows, importance, plane_format, name, START_ROUNDS)
        best: _SolvedGroup | None = None
        least = torch.full((weights.shape[1],), torch.inf, device=weights.device)
        for _ in range(self.refits + 1):
            table = level_table(scales, zeros, plane_format)
            with _one_thread():
                state = _sweep(weights, table, factor)
                for _ in range(self.polishes):
                    _polish(state, weights, table, metric)
            codes = table.codes(state.place)
            scales = _refit(codes, rows, inverse, scales, zeros, plane_format)
            values = level_table(scales, zeros, plane_format).values(codes)
            error = ((weights - values).T @ inverse).square().sum(1)
            better = error < least
            least = torch.where(better, error, least)
            found = _SolvedGroup(codes, state.latent, scales, values, zeros)
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
    zeros: Tensor | None  # [N], those that it began with

    def merged(self, other: "_SolvedGroup", better: Tensor) -> "_SolvedGroup":
        """For each row the one of the two that `better` [N] says."""
        names = ("codes", "latent", "scales", "values")
        chosen = {name: torch.where(better, getattr(other, name), getattr(self, name)) for name in names}
        return replace(self, **chosen)


@dataclass
class _State:
    place: Tensor  # int64 [g, N], the place of each weight's level in the table
    values: Tensor  # [g, N]
    latent: Tensor  # [g, N]


def _sweep(weights: Tensor, table: LevelTable, factor: Tensor) -> _State:
    """Round column after column, each error fed into the columns after it."""
    latent = weights.clone()
    place = torch.empty(weights.shape, dtype=torch.int64, device=weights.device)
    values = torch.empty_like(weights)
    shares = factor / factor.diagonal()[:, None]
    for c in range(len(weights)):
        place[c], values[c] = table.nearest(latent[c])
        if c + 1 < len(weights):
            latent[c + 1 :].addr_(shares[c, c + 1 :], latent[c] - values[c], alpha=-1)
    return _State(place, values, latent)


def _polish(state: _State, weights: Tensor, table: LevelTable, metric: Tensor) -> None:
    """Give each column in turn the level that is best while all others stay: coordinate descent in `metric` [g, g]."""
    residual = metric @ (weights - state.values)  # [g, N]
    for c in range(len(weights)):
        wanted = state.values[c] + residual[c] / metric[c, c]
        place, value = table.nearest(wanted)
        residual.addr_(metric[c], state.values[c] - value)
        state.place[c], state.values[c], state.latent[c] = place, value, wanted


def _refit(
    codes: Tensor, rows: Tensor, inverse: Tensor, scales: Tensor, zeros: Tensor | None, plane_format: PlaneFormat
) -> Tensor:
    """The scales [C, N] that are best for `codes` [g, N] in the metric of the group, as their type holds them."""
    if plane_format.even:
        features = [one @ inverse for one in even_features(codes.T.to(rows.dtype), plane_format, zeros)]
    else:
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
