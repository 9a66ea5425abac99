"""Points of the kernel benchmark, and the contenders of a point as sessions of ONNX Runtime.

A contender is a model of many nodes that multiply X [M, K] by a weight [N, K], made on the fly and run by a session
with as many threads as the point says. All contenders have the same conditions:

- Every node has its own weight. ONNX Runtime keeps one packed copy of equal weights, which then sits in the cache.
- Every node has its own X. What a kernel derives from X could otherwise serve all nodes, as in no real model.
- At small M the weights of all nodes together are far larger than the last-level cache, as a model's are: each product
  reads its weight from memory. At larger M products are bound by arithmetic and fewer nodes do.
- Inputs and outputs are bound buffers, so that no run allocates.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

import runtime_ext
from dualbinary import InputError
from dualbinary.contract.schema import OP, padded_k
from dualbinary.contract.weight import PlaneFormat

__all__ = [
    "FREE",
    "OURS",
    "PEER",
    "Point",
    "Sessions",
    "WeightFormat",
    "contender_names",
    "even",
    "model",
    "open_session",
    "shape_of",
]

OURS, PEER = "dualbinary", "MatMulNBits"
FREE = "free"
_ISA = "DUALBINARY_ISA"
_FEW_ROWS = 16  # from here on a weight is used so often that it hardly matters where it comes from
_SEED = 0
_SCALE = 0.03  # the largest


@dataclass(frozen=True)
class Point:
    """A row of the table: a product, and the threads of the session."""

    N: int
    K: int
    M: int
    threads: int

    @property
    def key(self) -> str:
        """The point as a word."""
        return f"{self.N}x{self.K} M={self.M} threads={self.threads}"


def even(planes: int) -> str:
    """Name of even levels of so many planes, around a zero in their middle: +-1, -1 0 1 2, -8 to 7, -128 to 127."""
    return f"even{planes}"


@dataclass(frozen=True)
class WeightFormat:
    """G and offset of our weights, P of free levels, and the type of X; the peer takes the same G and type."""

    group_size: int
    planes: int
    offset: bool
    dtype: str
    scale_bits: int = 16

    def plane_format(self, name: str) -> PlaneFormat:
        """Form of the weights of our contender called `name`."""
        form, _ = _form_and_level(name)
        scale_dtype = np.dtype(np.uint8 if self.scale_bits == np.iinfo(np.uint8).bits else np.float16)
        if form == FREE:
            return PlaneFormat(self.planes, self.group_size, self.offset, scale_dtype=scale_dtype)
        planes = int(form.removeprefix(even("")))
        middle = 0.5 if planes == 1 else float(2 ** (planes - 1) - (planes == 2))
        zero = 0.0 if self.offset else middle
        return PlaneFormat(planes, self.group_size, self.offset, levels="even", zero=zero, scale_dtype=scale_dtype)

    def stored_bytes(self, name: str, point: Point) -> int:
        """Bytes of one weight in the model file, which a product must read at least; X and Y are left out."""
        if name.startswith(OURS):
            return point.N * self.plane_format(name).row_bits(point.K) // 8
        columns = padded_k(point.K, self.group_size)
        groups = columns // self.group_size
        return point.N * (_bits(name) * columns // 8 + np.dtype(self.dtype).itemsize * groups)


def contender_names(
    levels: list[int], isas: list[str | None], peers: list[int], forms: Sequence[str] = (FREE,)
) -> list[str]:
    """Names: `dualbinary-4`, with free levels, `dualbinary-even2-4`, `dualbinary-4@avx2`, `MatMulNBits-2`.

    The last number is the accuracy level, or the bits of the peer; a forced instruction set follows.
    """
    ours = [
        f"{OURS}-{'' if form == FREE else f'{form}-'}{level}" + (f"@{isa}" if isa else "")
        for isa in isas
        for level in levels
        for form in forms
    ]
    return ours + [f"{PEER}-{bits}" for bits in peers]


def shape_of(text: str) -> tuple[int, int]:
    """N and K of a shape such as 4096x11008. Raises InputError."""
    N, separator, K = text.partition("x")
    if not (separator and N.isdecimal() and K.isdecimal() and int(N) and int(K)):
        raise InputError(f"--shapes: expected NxK such as 4096x11008, outputs by inputs, got {text}")
    return int(N), int(K)


def _form_and_level(name: str) -> tuple[str, int]:
    """FREE or even() of our contender, and its accuracy level."""
    form, _, level = name.partition("@")[0].removeprefix(f"{OURS}-").rpartition("-")
    return form or FREE, int(level)


def _bits(name: str) -> int:
    return int(name.removeprefix(f"{PEER}-"))


class Sessions:
    """Sessions of all contenders, kept for the next point where that needs the same ones."""

    def __init__(self, weight_format: WeightFormat, names: list[str], out_of_cache: int) -> None:
        """`out_of_cache`: bytes of all weights of a session at small M."""
        self.weight_format, self.names, self.out_of_cache = weight_format, names, out_of_cache
        self._key: Any = None
        self._open: dict[str, ort.InferenceSession] = {}

    def nodes(self, name: str, point: Point) -> int:
        """Count the products in one run of the session."""
        fill = math.ceil(self.out_of_cache / self.weight_format.stored_bytes(name, point))
        return max(2, fill if point.M < _FEW_ROWS else math.ceil(fill / point.M))

    def runs(self, point: Point) -> dict[str, Callable[[], object]]:
        """Return a function for each contender that runs its session once; valid until the next call."""
        nodes = {name: self.nodes(name, point) for name in self.names}
        key = (point.N, point.K, point.threads, nodes)
        if key != self._key:
            self._open = {}  # before the new ones take memory
            self._open = {name: open_session(name, point, count, self.weight_format) for name, count in nodes.items()}
            self._key = key
        return {name: _bound(session, point, self.weight_format) for name, session in self._open.items()}


def open_session(name: str, point: Point, nodes: int, weight_format: WeightFormat) -> ort.InferenceSession:
    """Open a session of `nodes` products, with the instruction set that the name forces."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = point.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    unforced, _, isa = name.partition("@")
    if name.startswith(OURS):
        runtime_ext.register(options)
    before = os.environ.get(_ISA)
    try:
        if isa:
            os.environ[_ISA] = isa  # read whenever a kernel is created
        return ort.InferenceSession(
            model(unforced, point, nodes, weight_format), options, providers=["CPUExecutionProvider"]
        )
    finally:
        if isa:
            os.environ.pop(_ISA) if before is None else os.environ.update({_ISA: before})


def _bound(session: ort.InferenceSession, point: Point, weight_format: WeightFormat) -> Callable[[], object]:
    """Bind buffers, which the returned function keeps."""
    binding = session.io_binding()
    generator = np.random.default_rng(_SEED)
    x = generator.standard_normal((point.M, point.K), np.float32).astype(weight_format.dtype)
    for value in session.get_inputs():
        binding.bind_ortvalue_input(value.name, ort.OrtValue.ortvalue_from_numpy(x))
    for value in session.get_outputs():
        y = np.zeros((point.M, point.N), weight_format.dtype)
        binding.bind_ortvalue_output(value.name, ort.OrtValue.ortvalue_from_numpy(y))
    return lambda: session.run_with_iobinding(binding)


def model(name: str, point: Point, nodes: int, weight_format: WeightFormat) -> bytes:
    """Serialize the ONNX model of a contender: `nodes` products side by side, M left open."""
    domain, version, operator, weights, attributes = (
        _ours(name, point, weight_format) if name.startswith(OURS) else _peer(name, point, weight_format)
    )
    generator = np.random.default_rng(_SEED)
    element = helper.np_dtype_to_tensor_dtype(np.dtype(weight_format.dtype))
    graph = onnx.GraphProto(name="products")
    for index in range(nodes):
        tensors = {f"{role}{index}": make(generator) for role, make in weights.items()}
        graph.initializer.extend(numpy_helper.from_array(array, tensor) for tensor, array in tensors.items())
        graph.input.append(helper.make_tensor_value_info(f"x{index}", element, ["M", point.K]))
        graph.output.append(helper.make_tensor_value_info(f"y{index}", element, ["M", point.N]))
        inputs = [f"x{index}", *tensors]
        graph.node.append(
            helper.make_node(operator, inputs, [f"y{index}"], f"product{index}", domain=domain, **attributes)
        )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(domain, version)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()


_Weights = dict[str, Callable[[np.random.Generator], np.ndarray]]
_Contender = tuple[str, int, str, _Weights, dict[str, Any]]


def _ours(name: str, point: Point, weight_format: WeightFormat) -> _Contender:
    plane_format, (_, level) = weight_format.plane_format(name), _form_and_level(name)
    planes, scales = plane_format.shapes(point.N, point.K)
    weights: _Weights = {
        "planes": lambda generator: _bytes(generator, *planes),
        "scales": lambda generator: _stored_scales(generator, plane_format.scale_dtype, *scales),
    }
    attributes = {"K": point.K, "N": point.N, "group_size": weight_format.group_size, "layout": OP.layouts[0].number}
    if plane_format.even:
        attributes.update(levels=int(plane_format.even), twice_zero=plane_format.node_levels.twice_zero)
    return OP.domain, plane_format.version, OP.name, weights, {**attributes, "accuracy_level": level}


def _peer(name: str, point: Point, weight_format: WeightFormat) -> _Contender:
    bits, block = _bits(name), weight_format.group_size
    groups = padded_k(point.K, block) // block
    weights: _Weights = {
        "B": lambda generator: _bytes(generator, point.N, groups, block * bits // 8),
        "scales": lambda generator: _scales(generator, weight_format.dtype, point.N, groups),
    }
    attributes = {"K": point.K, "N": point.N, "bits": bits, "block_size": block, "accuracy_level": 4}
    return "com.microsoft", 1, "MatMulNBits", weights, attributes


def _bytes(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return np.frombuffer(generator.bytes(math.prod(shape)), np.uint8).reshape(shape)


def _stored_scales(generator: np.random.Generator, dtype: np.dtype[Any], *shape: int) -> np.ndarray:
    if dtype != np.uint8:
        return _scales(generator, dtype, *shape)
    scales = _bytes(generator, *shape).copy()
    scales[:, :, : OP.scale_codes["factor_bytes"]] = np.array([_SCALE], "<f2").view(np.uint8)
    return scales


def _scales(generator: np.random.Generator, dtype: Any, *shape: int) -> np.ndarray:
    return generator.uniform(_SCALE / 3, _SCALE, shape).astype(dtype)
