"""Small products by every CUDA kernel against the NumPy reference, for compute-sanitizer.

    compute-sanitizer --tool memcheck python -m benchmarks.cuda.products --library FILE
    python -m benchmarks.cuda.products --library FILE --emulated     the same on the CPU

Neither torch nor ONNX Runtime takes part, so all that a sanitizer reports is ours. The tests in tests/runtime go
deeper.
"""

import argparse
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.cuda.contenders import takes
from benchmarks.cuda.device import DriverMemory, Emulated, Memory, only_device
from dualbinary import DualBinaryError, InputError, dual_binary_matmul, pack_planes
from dualbinary.cli.console import add_common_options, run
from dualbinary.contract.layout import pack_zeros
from dualbinary.contract.levels import FREE, GROUP_ZEROS, Levels
from dualbinary.contract.scale_codes import BFLOAT16, round_scales
from runtime_ext.cuda_capi import CudaWeight, describe

__all__ = ["main"]

ROWS = (1, 4, 7, 16, 40, 70, 130)  # each shape of a launch
X_TYPES = ("float16", "float32", "bfloat16")
SCALE_TYPES = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.uint8), BFLOAT16)
# Levels, and whether there is an offset.
FORMS = (
    (FREE, False),
    (FREE, True),
    (Levels(True, 1), False),
    (Levels(True, GROUP_ZEROS), False),
    (Levels(True), True),
)
K, N, GROUP_SIZE = 328, 70, 96  # none of them a multiple of a tile; rows of X stay aligned to 16 bytes
# Of the norm of all outputs. Level 0 rounds weights and results to float16, or results to bfloat16's eight bits; level
# 4 rounds X to 8 bits, by half a step of 1/127 of the largest of 128 values at most. A wrong index is off by about 1.
TOLERANCE = {0: 5e-3, 4: 2e-2}
_ALIGNMENT = 256


@dataclass(frozen=True)
class Case:
    """One product by one kernel."""

    kernel: str
    rows: int
    level: int
    planes: int
    levels: Levels
    offset: bool
    x_type: str
    scale_type: np.dtype[Any]


def cases(kernels: list[dict[str, Any]], capability: int, all_rows: Sequence[int]) -> Iterator[Case]:
    """Yield all kernels that the device can run, with all numbers of planes, rows and levels; types and forms take turns."""
    types = itertools.cycle(itertools.product(X_TYPES, SCALE_TYPES, FORMS))
    for kernel, rows, level, planes in itertools.product(kernels, all_rows, TOLERANCE, (1, 2, 3, 4)):
        x_type, scale_type, (levels, offset) = next(types)
        if takes(kernel, rows, capability):
            yield Case(kernel["name"], rows, level, planes, levels, offset, x_type, scale_type)


def error(case: Case, memory: Memory) -> float:
    """Compute the norm of the difference from the reference, as a share of its norm."""
    rng = np.random.default_rng(case.rows)
    groups = -(-K // GROUP_SIZE)
    planes = pack_planes(rng.integers(0, 2, (case.planes, N, K)), GROUP_SIZE)
    if case.levels.group_zeros:
        planes = pack_zeros(planes, rng.integers(0, 1 << case.planes, (N, groups)))
    scales = _scales(rng.standard_normal((case.levels.scale_rows(case.planes) + case.offset, N, groups)), case)
    form = {"K": K, "group_size": GROUP_SIZE, "levels": case.levels}
    x = _rounded(rng.standard_normal((case.rows, K)).astype(np.float32), case.x_type)
    given = memory.put(_stored(x, case.x_type))
    result = memory.empty((case.rows, N), "uint16" if case.x_type == "bfloat16" else case.x_type)
    with CudaWeight(memory.library, planes, scales, accuracy_level=case.level, **form) as weight:
        size = weight.workspace(case.x_type, case.rows, case.kernel)
        workspace = memory.empty((size + _ALIGNMENT,), "uint8")
        # At the end of the allocation, so that a sanitizer sees an access past it.
        address = (workspace.address + _ALIGNMENT) // _ALIGNMENT * _ALIGNMENT
        weight.multiply(
            given.address,
            case.x_type,
            case.rows,
            result.address,
            workspace=address if size else 0,
            workspace_bytes=size,
            stream=memory.stream(),
            kernel=case.kernel,
        )
        y = _loaded(result.numpy(), case.x_type)
    expected = dual_binary_matmul(x, planes, scales, N=N, **form)
    return float(np.linalg.norm(y - expected) / np.linalg.norm(expected))


def _scales(values: npt.NDArray[np.float64], case: Case) -> npt.NDArray[Any]:
    if case.scale_type == np.uint8:
        return round_scales(values)
    return (
        _stored(values.astype(np.float32), "bfloat16")
        if case.scale_type == BFLOAT16
        else values.astype(case.scale_type)
    )


def _rounded(x: npt.NDArray[np.float32], x_type: str) -> npt.NDArray[np.float32]:
    return _loaded(_stored(x, x_type), x_type)


def _stored(x: npt.NDArray[np.float32], x_type: str) -> npt.NDArray[Any]:
    return (x.view(np.uint32) >> 16).astype(np.uint16) if x_type == "bfloat16" else x.astype(x_type)


def _loaded(x: npt.NDArray[Any], x_type: str) -> npt.NDArray[np.float32]:
    return (x.astype(np.uint32) << 16).view(np.float32) if x_type == "bfloat16" else x.astype(np.float32)


def _command(args: argparse.Namespace) -> None:
    if not args.library.is_file():
        raise InputError(f"{args.library}: no such library; make cuda builds it")
    device = only_device(args.library)
    memory: Memory = Emulated(args.library) if args.emulated else DriverMemory(args.library)
    counts: Counter[str] = Counter()
    largest = 0.0
    for case in cases(describe(args.library)["kernels"], device["compute_capability"], args.rows):
        found = error(case, memory)
        if not found < TOLERANCE[case.level]:
            raise DualBinaryError(
                f"{case}: differs by {found:.2g} of the norm, expected less than {TOLERANCE[case.level]}"
            )
        counts[case.kernel] += 1
        largest = max(largest, found / TOLERANCE[case.level])
    if args.json:
        print(json.dumps({"device": device["name"], "products": counts, "largest": largest}))
    else:
        each = ", ".join(f"{name} {count}" for name, count in counts.items())
        print(f"{device['name']}: {counts.total()} products are right ({each}), worst at {largest:.0%} of its bound")


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cuda.products", description="Hold every CUDA kernel against the NumPy reference."
    )
    parser.add_argument("--library", type=Path, required=True, metavar="FILE", help="libdualbinary_cuda")
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS, metavar="M", help=f"of X (default {list(ROWS)})")
    parser.add_argument("--emulated", action="store_true", help="on the CPU, with libdualbinary_cuda_emulated")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
