"""SignedHadamard nodes, and the function of standard operators that runs them where no library can be registered.

A pass places nodes by `signed_hadamard`; at the end `settle_hadamards` gives them their functions, or puts standard
operators in their place, for hosts that have no kernel for them.

The matrix of a block is a Kronecker product. Small blocks are multiplied by it; of larger ones two factors are, whose
sizes have the block size as product: a block of X as a matrix [left, right] becomes

    H(block_size) x = H(left) * x * H(right)

so that constants and work grow with the square root of the block size. (Of an X without rows ONNX Runtime 1.23 refuses
such a product, 1.32 does not.) Constants are numbers 1 and -1 of 8 bits, which
the runtime makes float when it loads the model.
"""

from typing import Literal

import numpy as np
import onnx_ir as ir
from onnx import parser
from onnx_ir.passes.common import InlinePass

from dualbinary import HADAMARD
from dualbinary.contract.hadamard import hadamard_matrix
from dualbinary.errors import InputError
from dualbinary.onnx_files.functions import attribute_list, check_function, constant_nodes
from exporter.graph.values import NodeBuilder, copy_type

__all__ = ["HadamardKind", "hadamard_function", "settle_hadamards", "signed_hadamard"]

_WHOLE = 64
"""The largest block that one matrix multiplies: 64 so is 1.7 times as fast as by two factors, 128 is not faster."""

HadamardKind = Literal["function", "nodes", "none"]

Transform = tuple[int, int]  # block_size, inverse


def signed_hadamard(
    build: NodeBuilder, x: ir.Value, signs: ir.Value, block_size: int, *, inverse: bool = False
) -> ir.Value:
    """A new SignedHadamard node: Y, like x [.., K].

    `signs` is an initializer, int8 [K]. With `inverse` the result of a node without it becomes its input again.
    """
    attributes = {"block_size": block_size, "inverse": int(inverse)}
    y = build(HADAMARD.name, x, signs, domain=HADAMARD.domain, **attributes)
    copy_type(x, y)
    return y


def settle_hadamards(model: ir.Model, kind: HadamardKind, dtype: ir.DataType = ir.DataType.FLOAT) -> None:
    """Prepare all SignedHadamard nodes for their hosts. The model's opset must be final.

    "function": each kind of transform gets a function, in a domain of its own, which its nodes are in; "nodes":
    standard operators take the nodes' place, for X of `dtype`; "none": nodes stay as they are, for the library alone.
    Raises InputError where the kinds of transform are more than the domains.
    """
    nodes = [node for node in model.graph if node.domain in HADAMARD.domain_names and node.op_type == HADAMARD.name]
    if kind == "none" or not nodes:
        return
    transforms = {node: _transform(node) for node in nodes}
    distinct = list(dict.fromkeys(transforms.values()))
    if len(distinct) > len(HADAMARD.domain_names):
        raise InputError(
            f"the model transforms activations in {len(distinct)} ways, and has room for "
            f"{len(HADAMARD.domain_names)} fallback functions of {HADAMARD.name}; use --fallback none"
        )
    imports = model.graph.opset_imports
    domains = dict(zip(distinct, HADAMARD.domain_names, strict=False))
    for node, transform in transforms.items():
        node.domain = domains[transform]
        imports.setdefault(node.domain, imports.get(HADAMARD.domain, 1))
    for (block_size, inverse), domain in domains.items():
        function = hadamard_function(block_size, inverse, imports[""], domain, dtype if kind == "nodes" else None)
        model.functions[function.identifier()] = function
    if kind == "nodes":
        _inline(model)


def hadamard_function(
    block_size: int, inverse: int, opset: int, domain: str = HADAMARD.domain, dtype: ir.DataType | None = None
) -> ir.Function:
    """The function for nodes of this transform: for X of `dtype`, or of any type."""
    left = 1 if block_size <= _WHOLE else 1 << (block_size.bit_length() - 1) // 2
    right = block_size // left
    constants = {
        "right_signs": hadamard_matrix(right),
        "factor": np.array(block_size**-0.5, np.float32),
        "blocks_shape": np.array([-1, left, right] if left > 1 else [-1, right], np.int64),
    }
    lines = [
        _cast("signs", "S", dtype),
        "right_floats = Cast <to = 1> (right_signs)",
        "right_scaled = Mul (right_floats, factor)",
        _cast("right", "right_scaled", dtype),
    ]
    lines += ["blocks = Reshape (X, blocks_shape)"] if inverse else _SIGNED_BLOCKS
    if left > 1:
        constants["left_signs"] = hadamard_matrix(left)
        lines += [_cast("left", "left_signs", dtype), "halfway = MatMul (blocks, right)"]
        lines += ["transformed = MatMul (left, halfway)"]
    else:
        lines += ["transformed = MatMul (blocks, right)"]
    lines += ["x_shape = Shape (X)", f"{'rows' if inverse else 'Y'} = Reshape (transformed, x_shape)"]
    lines += ["Y = Mul (rows, signs)"] if inverse else []
    body = "\n".join(lines)
    function = parser.parse_function(
        f'<domain: "{domain}", opset_import: ["" : {opset}]>\n'
        f"{HADAMARD.name} <{attribute_list(HADAMARD)}> (X, S) => (Y) {{\n{body}\n}}"
    )
    nodes = [*constant_nodes(constants), *function.node]
    del function.node[:]
    function.node.extend(nodes)
    check_function(function)
    return ir.from_proto(function)


_SIGNED_BLOCKS = ["given = Mul (X, signs)", "blocks = Reshape (given, blocks_shape)"]


def _cast(result: str, value: str, dtype: ir.DataType | None) -> str:
    if dtype is None:
        return f"{result} = CastLike ({value}, X)"
    return f"{result} = Cast <to = {int(dtype)}> ({value})"


def _transform(node: ir.Node) -> Transform:
    inverse = node.attributes.get("inverse")
    return node.attributes["block_size"].as_int(), 0 if inverse is None else inverse.as_int()


def _inline(model: ir.Model) -> None:
    """Put the functions of all SignedHadamard nodes in their place, and forget domains that no node is in any more."""
    InlinePass(lambda function: function.name == HADAMARD.name)(model)
    used = {node.domain for node in model.graph.all_nodes()}
    for domain in HADAMARD.domain_names:
        if domain not in used:
            model.graph.opset_imports.pop(domain, None)
