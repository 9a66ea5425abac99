"""A row's bits in a run of a few rows: what checking guesses relies on, for the kernels that calls take by themselves."""

from itertools import product

import numpy as np
import pytest

from dualbinary.contract.levels import FREE, Levels
from dualbinary.onnx_files.same_bits import ROWS_BY_LEVEL
from runtime_ext.capi import Weight
from tests.support.problems import make_problem

SIZES = (16, 32, 64, 96, 128, 256)


@pytest.mark.parametrize("accuracy_level", sorted(ROWS_BY_LEVEL))
@pytest.mark.parametrize("levels", [FREE, Levels(even=True)], ids=["free", "even"])
def test_a_row_has_the_same_bits_alone_as_with_as_many_as_a_run_may_have(levels, accuracy_level):
    most = ROWS_BY_LEVEL[accuracy_level]
    for planes, group_size in product(range(1, 9), SIZES if levels.even else SIZES[1:]):
        problem = make_problem(
            M=most, K=2 * group_size + 32, N=40, group_size=group_size, planes=planes, offset=True, levels=levels
        )
        settings = {"K": problem.K, "group_size": group_size, "levels": levels, "accuracy_level": accuracy_level}
        with Weight(problem.planes, problem.scales, **settings) as weight:
            alone = np.concatenate([weight.multiply(row[None]) for row in problem.x])
            for rows in range(2, most + 1):
                found = weight.multiply(problem.x[:rows])
                np.testing.assert_array_equal(found, alone[:rows], f"{rows} rows, P={planes}, G={group_size}")
