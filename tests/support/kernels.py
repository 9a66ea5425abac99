"""Kernels by name, and products by them through the C API: for the tests of kernels, layouts and packed copies."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume

import runtime_ext
from dualbinary.contract.levels import FREE, Levels
from runtime_ext.capi import Weight
from tests.support.problems import Problem, make_problem

KERNELS = runtime_ext.describe()["kernels"]
AVAILABLE = {kernel["name"] for kernel in KERNELS if kernel["available"]}
"""Those that this CPU can run."""
EXACT = "exact_f64_scalar"
FREE_LEVELS = {kernel["name"] for kernel in KERNELS if kernel["free_levels"]}
EVEN_LEVELS = {kernel["name"] for kernel in KERNELS if kernel["even_levels"]}
"""Those that serve free levels, and even ones; most serve both."""
LEVELS = {kernel["name"]: kernel["accuracy_level"] for kernel in KERNELS}
FAST_KERNELS = [name for name in LEVELS if name != EXACT]
TABLE_KERNELS = [name for name in LEVELS if name.startswith("table")]
LEVEL_KERNELS = [name for name in LEVELS if name.startswith("level")]


def kernel_parameter(name: str, *values: object):
    """Parameters of a test that begin with the kernel `name`; skipped by name where this CPU cannot run it."""
    marks = () if name in AVAILABLE else pytest.mark.skip(reason=f"this CPU cannot run {name}")
    return pytest.param(name, *values, marks=marks)


def each(names: list[str] | dict[str, int]):
    """Run a test for each of the kernels; those that this CPU cannot run are skipped by name."""
    if not names:
        return pytest.mark.skip(reason="this build has no such kernel")
    return pytest.mark.parametrize("kernel", [kernel_parameter(name) for name in names])


def problem_for(kernel: str, **settings: Any) -> Problem:
    """A problem of make_problem() with free levels, or, for a kernel of these alone, with even ones."""
    return make_problem(levels=served_levels(kernel), **settings)


def serves(kernel: str, levels: Levels) -> bool:
    """Whether the kernel serves these levels."""
    return kernel in (EVEN_LEVELS if levels.even else FREE_LEVELS)


def served_levels(kernel: str) -> Levels:
    """Free levels, or, for a kernel of these alone, even ones from 0 on."""
    return FREE if kernel in FREE_LEVELS else Levels(even=True)


def product(kernel: str, problem: Problem, parallel=None) -> np.ndarray:
    """Y [.., N] of the problem by the kernel."""
    with prepared(kernel, problem) as weight:
        rows = weight.multiply(problem.x.reshape(-1, problem.K), parallel=parallel)
    return rows.reshape(*problem.x.shape[:-1], problem.N)


def prepared(kernel: str, problem: Problem) -> Weight:
    """The problem's weight, packed for the kernel; a property's example that the kernel does not serve is left out."""
    assume(serves(kernel, problem.levels))
    return Weight(
        problem.planes,
        problem.scales,
        K=problem.K,
        group_size=problem.group_size,
        levels=problem.levels,
        accuracy_level=LEVELS[kernel],
        kernel=kernel,
    )


def error_bound(kernel: str, problem: Problem) -> np.ndarray | float:
    """How far a kernel's results may be from the reference, before they are rounded."""
    if kernel == EXACT:  # sums in float64, as the reference does, but in another order
        return 1e-9 * problem.float_error()
    return problem.level_error_bound(LEVELS[kernel]) if kernel in LEVEL_KERNELS else problem.error_bound(LEVELS[kernel])
