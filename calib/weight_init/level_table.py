"""The levels of N groups as one table, and the scales that initialization begins with, for any format.

A place is what a table calls a level: its rank among free ones, its number among even ones.
"""

from typing import Protocol

import torch
from torch import Tensor

from calib.even_quantizer import even_levels, even_numbers
from calib.quantizer import levels_of, sorted_levels
from calib.weight_init.even_groups import fitted_groups, refine_even
from calib.weight_init.least_squares import fitted_scales, refine
from dualbinary.contract.weight import PlaneFormat

__all__ = ["LevelTable", "level_table", "start"]


class LevelTable(Protocol):
    """The levels of N groups."""

    def nearest(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Place and level of the nearest level for a weight of each group, [N]."""
        ...

    def codes(self, places: Tensor) -> Tensor:
        """The codes uint8 [g, N] of places [g, N]."""
        ...

    def values(self, codes: Tensor) -> Tensor:
        """The levels [g, N] of codes [g, N]."""
        ...


class _Free:
    def __init__(self, scales: Tensor, planes: int) -> None:
        self._table, self._levels = sorted_levels(scales, planes), levels_of(scales, planes)

    def nearest(self, values: Tensor) -> tuple[Tensor, Tensor]:
        rank = (values > self._table.cuts).sum(0)
        return rank, self._table.levels.gather(0, rank[None])[0]

    def codes(self, places: Tensor) -> Tensor:
        return self._table.order.to(torch.uint8).gather(0, places)

    def values(self, codes: Tensor) -> Tensor:
        return self._levels.gather(0, codes.long())


class _Even:
    def __init__(self, scales: Tensor, zeros: Tensor | None, form: PlaneFormat) -> None:
        self._grid = scales, form, zeros

    def nearest(self, values: Tensor) -> tuple[Tensor, Tensor]:
        number = even_numbers(values[:, None], *self._grid)
        return number[:, 0].long(), even_levels(number, *self._grid)[:, 0]

    def codes(self, places: Tensor) -> Tensor:
        return places.to(torch.uint8)

    def values(self, codes: Tensor) -> Tensor:
        return even_levels(codes.T, *self._grid).T


def level_table(scales: Tensor, zeros: Tensor | None, form: PlaneFormat) -> LevelTable:
    """The table of groups with scales [C, N] and, where the format has them, zero points [N]."""
    return _Even(scales, zeros, form) if form.even else _Free(scales, form.planes)


def start(
    weights: Tensor, importance: Tensor, form: PlaneFormat, name: str, rounds: int
) -> tuple[Tensor, Tensor | None]:
    """Scales [C, N] and zero points [N] of weighted least squares for groups [N, g], not yet rounded.

    Raises InputError for broken weights.
    """
    if form.even:
        scales, zeros = fitted_groups(weights, form, name)
        return refine_even(weights, importance, scales, zeros, form, rounds), zeros
    return refine(weights, importance, fitted_scales(weights, form, name), form, rounds)[0], None
