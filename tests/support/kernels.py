"""Kernels by name, and products by them through the C API: for the tests of kernels, layouts and packed copies."""

import numpy as np
import pytest
from hypothesis import assume

import runtime_ext
from runtime_ext.capi import Weight
from tests.support.problems import Problem

KERNELS = runtime_ext.describe()["kernels"]
AVAILABLE = {kernel["name"] for kernel in KERNELS if kernel["available"]}
"""Those that this CPU can run."""
EXACT = "exact_f64_scalar"
EVEN = {kernel["name"] for kernel in KERNELS if kernel["even_levels"]}
"""Those that serve even levels."""
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


def product(kernel: str, problem: Problem, parallel=None) -> np.ndarray:
    """Y [.., N] of the problem by the kernel."""
    with prepared(kernel, problem) as weight:
        rows = weight.multiply(problem.x.reshape(-1, problem.K), parallel=parallel)
    return rows.reshape(*problem.x.shape[:-1], problem.N)


def prepared(kernel: str, problem: Problem) -> Weight:
    """The problem's weight, packed for the kernel; a property's example that the kernel does not serve is left out."""
    assume(kernel in EVEN or not problem.levels.even)
    return Weight(
        problem.planes,
        problem.scales,
        K=problem.K,
        group_size=problem.group_size,
        levels=problem.levels,
        accuracy_level=LEVELS[kernel],
        kernel=kernel,
    )
