"""Products of stored problems by named kernels: tests/runtime/test_emulated.py compares two CPUs by them.

python -m tests.support.products PROBLEMS.npz RESULTS.npz KERNEL...
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from dualbinary.contract.levels import GROUP_ZEROS, Levels
from dualbinary.contract.scale_codes import BFLOAT16
from runtime_ext import describe
from runtime_ext.capi import Weight
from tests.support.problems import Problem, make_problem


def varied_problems() -> list[Problem]:
    """Gaussian ones of every kind: planes, offset, levels, groups, tails of K and N, types, few rows and more."""
    free = [
        make_problem(M=rows, K=K, N=N, group_size=G, planes=P, offset=offset, x_type=x, scale_type=scales, seed=P * K)
        for P, offset in ((1, True), (2, False), (2, True), (3, False), (4, True), (8, False))
        for K, N, G in ((64, 33, 32), (190, 70, 96), (600, 100, 64), (1000, 64, 128), (512, 40, 512))
        for rows, x, scales in ((1, np.float32, np.float16), (7, np.float16, np.float32))
    ]
    even = [
        make_problem(
            M=rows,
            K=K,
            N=N,
            group_size=G,
            planes=P,
            offset=offset,
            x_type=x,
            scale_type=scales,
            levels=Levels(True, twice_zero),
            seed=P * K,
        )
        for P, twice_zero, offset in (
            (1, 1, False),
            (2, 2, False),
            (3, 0, True),
            (4, GROUP_ZEROS, False),
            (8, 255, False),
        )
        for K, N, G in ((70, 33, 16), (64, 33, 32), (190, 70, 96), (1000, 64, 128))
        for rows, x, scales in ((1, np.float32, BFLOAT16), (7, np.float16, np.float32))
    ]
    return free + even


def save_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Write problems so that another CPU has the same ones to the bit."""
    arrays = {}
    for i, problem in enumerate(problems):
        numbers = np.array([problem.K, problem.N, problem.group_size, *problem.levels])
        arrays |= {f"{i}.x": problem.x, f"{i}.planes": problem.planes, f"{i}.scales": problem.scales, f"{i}": numbers}
    np.savez(path, allow_pickle=False, **arrays)


def results(path: Path, kernels: Iterable[str]) -> dict[str, np.ndarray]:
    """Y of each problem, as "<problem> <kernel>"; a kernel serves the lowest level it can."""
    stored = np.load(path)
    served = {kernel["name"]: kernel["accuracy_level"] for kernel in describe()["kernels"]}
    found = {}
    for i in (name for name in stored.files if name.isdecimal()):
        K, N, group_size, even, twice_zero = map(int, stored[i])
        levels = Levels(bool(even), twice_zero)
        problem = Problem(stored[f"{i}.x"], stored[f"{i}.planes"], stored[f"{i}.scales"], K, N, group_size, levels)
        for kernel in kernels:
            form = {
                "K": K,
                "group_size": group_size,
                "levels": levels,
                "accuracy_level": served[kernel],
                "kernel": kernel,
            }
            with Weight(problem.planes, problem.scales, **form) as weight:
                found[f"{i} {kernel}"] = weight.multiply(problem.x)
    return found


if __name__ == "__main__":
    np.savez(sys.argv[2], allow_pickle=False, **results(Path(sys.argv[1]), sys.argv[3:]))
