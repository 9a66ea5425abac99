"""DualBinaryAttention without its products beside ONNX Runtime's GroupQueryAttention.

    python -m benchmarks.kernels.attention [--heads 9x3x64 32x4x64] [--new 1 4 128] [--keys 128 2048] [--threads 1 2]
        [--rounds N] [--json]

Each contender is a model of several nodes in a row, every one with a cache of its own, which past and present share;
tokens are rotated, stored and attended to, `--new` of them behind the others of `--keys` in all. Contenders take turns
round after round. A time is that of a run divided by its nodes, so what ONNX Runtime costs for a node is inside.
`x` columns say how many times as long GroupQueryAttention of float32 takes, by medians.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import runtime_ext
from benchmarks.common.timing import interleave
from dualbinary import ATTENTION, InputError
from dualbinary.cli.console import add_common_options, run

__all__ = ["Point", "main", "measure"]

NODES = 6
MIN_ROUNDS = 3
SECONDS = 0.03
CACHES = {"float32": np.float32, "float16": np.float16, "int8": np.int8}
PEER = "GroupQueryAttention"


@dataclass(frozen=True)
class Point:
    """Microseconds of a node, median over rounds, by contender."""

    heads: str
    new: int
    keys: int
    threads: int
    microseconds: dict[str, float]


def _sizes(text: str) -> tuple[int, int, int]:
    try:
        h, g, D = map(int, text.split("x"))
    except ValueError:
        raise InputError(f"heads: expected as in 9x3x64 (query heads, key heads, their size), got {text}") from None
    if min(h, g, D) < 1 or h % g or D % ATTENTION.limits["head_multiple"]:
        raise InputError(f"heads: {text}: the second has to divide the first, and the third is a multiple of 8")
    return h, g, D


class _Contender:
    """A model of NODES attention nodes, bound to its caches."""

    def __init__(self, name: str, sizes: tuple[int, int, int], new: int, keys: int, threads: int) -> None:
        h, g, D = sizes
        peer = name == PEER
        dtype = np.dtype(np.float32 if peer else CACHES[name])
        E = D + ATTENTION.limits["scale_bytes"] if dtype == np.int8 else D
        model = _model(peer, sizes, dtype, E, new, keys)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        runtime_ext.register(options)
        self.session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        rng = np.random.default_rng(0)
        self.binding = self.session.io_binding()
        feeds = {
            "x": rng.standard_normal((1, new, (h + 2 * g) * D)).astype(np.float32),
            "last_keys": np.array([keys - 1], np.int32),
            "longest": np.array([keys], np.int32),
        }
        self._kept = [ort.OrtValue.ortvalue_from_numpy(value) for value in feeds.values()]
        for key, value in zip(feeds, self._kept, strict=True):
            self.binding.bind_ortvalue_input(key, value)
        for i, kind in product(range(NODES), ("key", "value")):
            rows = rng.integers(-9, 9, (1, g, keys, E)).astype(dtype)
            if dtype == np.int8:
                rows[..., D:] = np.array([0.1], "<f4").view(np.int8)
            cache = ort.OrtValue.ortvalue_from_numpy(rows)
            self._kept.append(cache)
            self.binding.bind_ortvalue_input(f"past.{i}.{kind}", cache)
            self.binding.bind_ortvalue_output(f"present.{i}.{kind}", cache)
        for i in range(NODES):
            self.binding.bind_output(f"y.{i}")

    def __call__(self) -> None:
        self.session.run_with_iobinding(self.binding)


def _model(peer: bool, sizes: tuple[int, int, int], dtype: np.dtype, E: int, new: int, keys: int) -> onnx.ModelProto:
    h, g, D = sizes
    cache_type = helper.np_dtype_to_tensor_dtype(dtype)
    angles = np.outer(np.arange(keys), 1e4 ** (-np.arange(D // 2) / (D // 2)))
    tables = [numpy_helper.from_array(f(angles).astype(np.float32), n) for f, n in ((np.cos, "cos"), (np.sin, "sin"))]
    nodes, caches = [], []
    shape = [1, g, keys, E]
    for i in range(NODES):
        past, present = ([f"{which}.{i}.{kind}" for kind in ("key", "value")] for which in ("past", "present"))
        caches.append((past, present))
        scale = float(D**-0.5)
        if peer:
            inputs = ["x", "", "", *past, "last_keys", "longest", "cos", "sin"]
            attributes = {"num_heads": h, "kv_num_heads": g, "do_rotary": 1, "scale": scale}
            name, domain = PEER, "com.microsoft"
        else:
            inputs = ["x", *past, "last_keys", "longest", "cos", "sin"]
            attributes = {"hidden_size": h * D, "num_heads": h, "kv_num_heads": g, "head_size": D, "scale": scale}
            name, domain = ATTENTION.name, ATTENTION.domain
        nodes.append(helper.make_node(name, inputs, [f"y.{i}", *present], domain=domain, **attributes))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "attention",
        [
            info("x", TensorProto.FLOAT, [1, new, (h + 2 * g) * D]),
            info("last_keys", TensorProto.INT32, [1]),
            info("longest", TensorProto.INT32, [1]),
            *(info(name, cache_type, shape) for past, _ in caches for name in past),
        ],
        [
            *(info(f"y.{i}", TensorProto.FLOAT, [1, new, h * D]) for i in range(NODES)),
            *(info(name, cache_type, shape) for _, present in caches for name in present),
        ],
        tables,
    )
    imports = [
        helper.make_opsetid(*each) for each in (("", 21), ("com.microsoft", 1), (ATTENTION.domain, ATTENTION.version))
    ]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def measure(
    heads: Sequence[str], new: Sequence[int], keys: Sequence[int], threads: Sequence[int], rounds: int
) -> Iterator[Point]:
    """Measure one point after another. Raises InputError for heads that are no sizes."""
    shapes = {text: _sizes(text) for text in heads}
    for text, s, n, t in product(heads, new, keys, threads):
        if s > n:
            continue
        contenders = {name: _Contender(name, shapes[text], s, n, t) for name in (PEER, *CACHES)}
        times = interleave(contenders, rounds, SECONDS)
        yield Point(text, s, n, t, {name: statistics.median(each) * 1e6 / NODES for name, each in times.items()})


def _row(point: Point) -> str:
    peer = point.microseconds[PEER]
    ours = "".join(f"{point.microseconds[name]:>10.1f} {peer / point.microseconds[name]:>6.2f}x" for name in CACHES)
    return f"{point.heads:<10} {point.new:>5} {point.keys:>6} {point.threads:>7} {peer:>12.1f}{ours}"


def _command(args: argparse.Namespace) -> None:
    if args.rounds < MIN_ROUNDS:
        raise InputError(f"rounds: expected at least {MIN_ROUNDS}, got {args.rounds}")
    points = measure(args.heads, args.new, args.keys, args.threads, args.rounds)
    if args.json:
        print(json.dumps({"points": [asdict(point) for point in points]}))
        return
    print(f"{'heads':<10} {'new':>5} {'keys':>6} {'threads':>7} {'GQA us':>12}", *(f"{name:>17}" for name in CACHES))
    for point in points:
        print(_row(point), flush=True)


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels.attention",
        description="DualBinaryAttention beside ONNX Runtime's GroupQueryAttention.",
    )
    parser.add_argument(
        "--heads", nargs="+", default=["9x3x64", "32x4x64"], metavar="HxGxD", help="heads and their size"
    )
    parser.add_argument("--new", nargs="+", type=int, default=[1, 4, 128], metavar="S", help="new tokens")
    parser.add_argument("--keys", nargs="+", type=int, default=[128, 512, 2048], metavar="N", help="tokens in all")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="T", help="threads of the session")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="rounds of each point")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
