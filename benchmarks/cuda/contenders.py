"""Points of the CUDA benchmark, names of contenders, and products by our kernels on any device.

A point is a weight [N, K] in groups of G, and M rows of X. A contender multiplies by several weights in turn, whose
bytes together are several times the L2 cache, so that each product reads its weight from memory, as a model's does.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.cuda.device import Buffer, Memory, Work
from dualbinary import DualBinaryError
from dualbinary.contract.schema import padded_k
from dualbinary.contract.weight import PlaneFormat
from runtime_ext.cuda_capi import CudaWeight

__all__ = [
    "CUBLAS",
    "OURS",
    "PEERS",
    "SHAPES",
    "Point",
    "Products",
    "our_names",
    "parse_name",
    "stored_bytes",
    "takes",
    "weight_count",
]

OURS, PEER, CUBLAS, INT4 = "dualbinary", "MatMulNBits", "cublas-fp16", "torch-int4"
PEERS = (CUBLAS, f"{PEER}-4", f"{PEER}-2", INT4)
PLANES = 2
X_TYPE = "float16"

# Layers of models of 1, 7 and 70 billion parameters.
SHAPES = (
    "2048x2048",
    "2048x5632",
    "5632x2048",
    "4096x4096",
    "4096x11008",
    "14336x4096",
    "4096x14336",
    "8192x8192",
    "28672x8192",
    "8192x28672",
)

_L2_FILLS = 4  # bytes of all weights of a contender, in L2 caches
_FEW_ROWS = 64  # from here on arithmetic hides where a weight comes from, and two weights will do
_SCALE = 0.03  # the largest
_ALIGNMENT = 256
_SEED = 0
# Kernels that round X to 8 bits differ from those that keep float16 by about a hundredth of the norm of all outputs.
_AGREEMENT = 0.05


@dataclass(frozen=True)
class Point:
    """One product: X [M, K] times a weight [N, K] with groups of G inputs."""

    N: int
    K: int
    M: int
    G: int

    @property
    def key(self) -> str:
        """The point as a word."""
        return f"{self.N}x{self.K} M={self.M} G={self.G}"


def our_names(levels: list[int], kernels: list[str | None]) -> list[str]:
    """Name our contenders: `dualbinary-0` for the library's choice at level 0, `dualbinary-0@decode_s8` if forced."""
    return [f"{OURS}-{level}" + (f"@{kernel}" if kernel else "") for level in levels for kernel in kernels]


def parse_name(name: str) -> tuple[int, str | None]:
    """Split the name of one of our contenders into accuracy_level and forced kernel."""
    level, _, kernel = name.removeprefix(f"{OURS}-").partition("@")
    return int(level), kernel or None


def stored_bytes(name: str, point: Point) -> int:
    """Bytes of one weight in a model file, which a product must read at least; X and Y are left out."""
    if name.startswith(OURS):
        return point.N * PlaneFormat(PLANES, point.G).row_bits(point.K) // 8
    columns = padded_k(point.K, point.G)
    groups = columns // point.G
    if name == CUBLAS:
        return point.N * point.K * 2
    if name == INT4:
        return point.N * (point.K // 2 + 4 * groups)  # a scale and a zero point of 16 bits
    bits = int(name.removeprefix(f"{PEER}-"))
    return point.N * (columns * bits // 8 + 2 * groups)


def weight_count(name: str, point: Point, l2_bytes: int) -> int:
    """Count the weights that a contender multiplies by in turn."""
    fill = math.ceil(_L2_FILLS * l2_bytes / stored_bytes(name, point))
    return max(2, fill if point.M < _FEW_ROWS else math.ceil(fill / point.M))


def takes(kernel: dict[str, Any], rows: int, capability: int) -> bool:
    """Return True if a kernel of describe()["kernels"] can be forced for so many rows on such a device."""
    return rows <= kernel["max_rows"] and kernel["min_capability"] <= capability <= kernel["max_capability"]


class Products:
    """Our weights of one shape on a device, and products by them, written to `y`. `close()` frees the weights."""

    def __init__(self, memory: Memory, point: Point, level: int, count: int) -> None:
        self.memory, self.point = memory, point
        generator = np.random.default_rng(_SEED)
        planes_shape, scales_shape = PlaneFormat(PLANES, point.G).shapes(point.N, point.K)
        self.weights: list[CudaWeight] = []
        for _ in range(count):
            planes = np.frombuffer(generator.bytes(math.prod(planes_shape)), np.uint8)
            scales = generator.uniform(_SCALE / 3, _SCALE, scales_shape).astype(np.float16)
            self.weights.append(
                CudaWeight(
                    memory.library,
                    planes.reshape(planes_shape),
                    scales,
                    K=point.K,
                    group_size=point.G,
                    accuracy_level=level,
                )
            )
        self._x = memory.put(generator.standard_normal((point.M, point.K), np.float32).astype(X_TYPE))
        self.y = memory.empty((point.M, point.N), X_TYPE)
        self._workspaces: list[Buffer] = []

    @property
    def packed_bytes(self) -> int:
        """Device memory of one weight."""
        return self.weights[0].nbytes

    def chosen(self) -> str:
        """Name the kernel that the library chooses."""
        return self.weights[0].kernel(X_TYPE, self.point.M)

    def work(self, kernel: str | None) -> Work:
        """Return a function that enqueues one product by each weight on the device's stream."""
        size = self.weights[0].workspace(X_TYPE, self.point.M, kernel)
        workspace = self.memory.empty((size + _ALIGNMENT,), "uint8")
        self._workspaces.append(workspace)  # alive as long as the work is
        address = -(-workspace.address // _ALIGNMENT) * _ALIGNMENT

        def run() -> None:
            stream = self.memory.stream()
            for weight in self.weights:
                weight.multiply(
                    self._x.address,
                    X_TYPE,
                    self.point.M,
                    self.y.address,
                    workspace=address if size else 0,
                    workspace_bytes=size,
                    stream=stream,
                    kernel=kernel,
                )

        return run

    def check(self, works: dict[str, Work]) -> None:
        """Raise DualBinaryError unless all agree but for rounding, on finite values that are not all zero."""
        results: dict[str, np.ndarray] = {}
        for name, work in works.items():
            work()
            results[name] = self.y.numpy().astype(np.float64)
        expected = next(iter(results.values()))
        norm = np.linalg.norm(expected)
        for name, result in results.items():
            difference = np.linalg.norm(result - expected) / norm
            if not (norm > 0 and difference < _AGREEMENT):
                raise DualBinaryError(
                    f"{self.point.key}: {name} differs by {difference:.2g} of the norm from {next(iter(results))}; "
                    f"expected less than {_AGREEMENT}; make gpu-check holds each kernel against the reference"
                )

    def close(self) -> None:
        """Free the weights."""
        for weight in self.weights:
            weight.close()
        self.weights = []
