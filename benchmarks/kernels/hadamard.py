"""SignedHadamard beside what else could transform activations, in ONNX Runtime.

    python -m benchmarks.kernels.hadamard [--shapes 5120x1024 17408x1024] [--rows 1 128] [--dtype float32]

Prints microseconds of a node in sessions of one thread: of the library, of the function in its place, of a MatMul with
the matrix of a block alone, and of a Mul, which is what reading and writing the activations takes. Medians of rounds in
which all take turns, over chains of nodes, so that a call of a session counts little. Times are those that the thread
spent on a CPU, so that a busy machine disturbs them little.
"""

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import helper, numpy_helper

import runtime_ext
from benchmarks.common.timing import interleave
from dualbinary import HADAMARD, InputError
from dualbinary.cli.console import add_common_options, run
from dualbinary.contract.hadamard import check_hadamard, hadamard_matrix
from exporter.graph.signed_hadamard import hadamard_function

__all__ = ["main"]

CONTENDERS = ("library", "function", "matmul", "mul")
CHAIN = 32  # nodes
ROUNDS, SECONDS = 9, 0.05
OPSET = 23


def _model(contender: str, K: int, block_size: int, dtype: np.dtype) -> onnx.ModelProto:
    """A chain of nodes, each of which has constants of its own, as those of a model."""
    generator = np.random.default_rng(0)
    matrix = (hadamard_matrix(block_size) * block_size**-0.5).astype(dtype)
    constants, nodes, value = [numpy_helper.from_array(np.array([-1, block_size]), "blocks")], [], "X"
    for index in range(CHAIN):
        signs, name, result = generator.choice(np.array([-1, 1], np.int8), K), f"c{index}", f"y{index}"
        if contender == "matmul":
            constants.append(numpy_helper.from_array(matrix, name))
            if index == 0:
                nodes.append(helper.make_node("Reshape", [value, "blocks"], ["rows"]))
                value = "rows"
            nodes.append(helper.make_node("MatMul", [value, name], [result]))
        elif contender == "mul":
            constants.append(numpy_helper.from_array(signs.astype(dtype), name))
            nodes.append(helper.make_node("Mul", [value, name], [result]))
        else:
            constants.append(numpy_helper.from_array(signs, name))
            nodes.append(
                helper.make_node(HADAMARD.name, [value, name], [result], domain=HADAMARD.domain, block_size=block_size)
            )
        value = result
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    inputs = [helper.make_tensor_value_info("X", kind, ["rows", K])]
    outputs = [helper.make_value_info(value, helper.make_tensor_type_proto(kind, None))]
    functions = [ir.to_proto(hadamard_function(block_size, 0, OPSET))] if contender == "function" else []
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(HADAMARD.domain, 1)]
    graph = helper.make_graph(nodes, "chain", inputs, outputs, constants)
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)


def _work(contender: str, K: int, block_size: int, x: np.ndarray) -> Callable[[], object]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if contender == "library":
        runtime_ext.register(options)
    model = _model(contender, K, block_size, x.dtype).SerializeToString()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"X": x})


def _thread_clock(work: Callable[[], object]) -> float:
    begin = time.thread_time()
    work()
    return time.thread_time() - begin


def _shape(text: str) -> tuple[int, int]:
    """K and block_size."""
    try:
        K, block_size = map(int, text.split("x"))
        signs = np.ones(K, np.int8)
    except ValueError:
        raise InputError(f"--shapes: expected INPUTSxBLOCK, such as 5120x1024, got {text}") from None
    check_hadamard(block_size, signs, K, f"--shapes: {text}")
    return K, block_size


def _command(args: argparse.Namespace) -> None:
    shapes = [_shape(shape) for shape in args.shapes]
    print(f"| K, block | M | {' | '.join(CONTENDERS)} |")
    print("| --- | ---: |" + " ---: |" * len(CONTENDERS))
    for K, block_size in shapes:
        for rows in args.rows:
            x = np.random.default_rng(1).standard_normal((rows, K)).astype(args.dtype)
            works = {name: _work(name, K, block_size, x) for name in CONTENDERS}
            times = interleave(works, args.rounds, args.seconds, _thread_clock)
            cells = " | ".join(f"{median(times[name]) / CHAIN * 1e6:.1f}" for name in CONTENDERS)
            print(f"| {K}, {block_size} | {rows} | {cells} |", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels.hadamard", description="Time SignedHadamard beside what else transforms."
    )
    parser.add_argument("--shapes", nargs="+", default=["576x64", "2048x256", "5120x1024", "17408x1024"], metavar="KxB")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 16, 128], metavar="M")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds that are counted")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each contender in a round")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
