"""Weights of layout codes, packed in plain NumPy: for the tests of what reads that layout."""

from dataclasses import replace

import numpy as np

from dualbinary.contract.schema import OP, padded_k
from tests.support.problems import Problem

CODES = OP.layout_named("codes").number


def in_codes(problem: Problem) -> Problem:
    """The problem with `planes` [N, Kp/G + E, G*P/8] of layout codes."""
    P, G = len(problem.planes), problem.group_size
    groups = padded_k(problem.K, G) // G
    digits = np.unpackbits(problem.planes, axis=2, bitorder="little") << np.arange(P, dtype=np.uint8)[:, None, None]
    numbers = np.bitwise_or.reduce(digits, axis=0)  # of a row: of its inputs, then of the zero points
    rows = groups + (-(-groups // G) if problem.levels.group_zeros else 0)
    stored = groups * G + (groups if problem.levels.group_zeros else 0)
    codes = np.zeros((problem.N, rows * G), np.uint8)
    codes[:, :stored] = numbers[:, :stored]
    shifts = np.arange(0, 8, P, dtype=np.uint8)
    packed = np.bitwise_or.reduce(codes.reshape(problem.N, -1, 8 // P) << shifts, axis=2)
    return replace(problem, planes=packed.reshape(problem.N, rows, G * P // 8))
