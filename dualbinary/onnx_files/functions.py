"""Fallback functions inside a model: which stored layout they read."""

from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser

from dualbinary.contract.layout import CODES
from dualbinary.contract.schema import OP, Operator
from dualbinary.contract.weight import PlaneFormat
from dualbinary.errors import InputError
from dualbinary.onnx_files.pack_codes import pack_codes_text
from dualbinary.onnx_files.unpack_function import PREFIX, UnpackFunction, unpack_function

__all__ = ["attribute_list", "check_function", "constant_nodes", "own_layout", "replace_unpacking"]

_OPSET = 18  # the first with bitwise operators
_UNPACKED = {"planes", CODES, "scales"}


def replace_unpacking(function: onnx.FunctionProto, plane_format: PlaneFormat) -> None:
    """Let the fallback function read weights of `plane_format` in place of those that it reads now.

    A function that computes of codes gets nodes that make them of planes. Raises InputError where another program made
    the function, where its opset lacks the operators, or where it computes of planes and `plane_format` has codes.
    """
    opset = next((entry.version for entry in function.opset_import if entry.domain in ("", "ai.onnx")), 0)
    body = [node for node in function.node if not _unpacks(node)]
    if len(function.input) != 3 or not any(_UNPACKED.intersection(node.input) for node in body):
        raise InputError(
            f"the fallback function {function.domain}::{function.name} was not made by this project's exporter, and "
            "may not know another layout; export the model again, or remove the function"
        )
    unpack = unpack_function(plane_format)
    if own_layout(function) == CODES:
        unpack = _with_codes(unpack, plane_format)
    elif plane_format.layout == CODES:
        raise InputError(
            f"the fallback function {function.domain}::{function.name} computes of planes, not of layout {CODES}; "
            "export the model again"
        )
    if unpack.text and opset < _OPSET:
        raise InputError(
            f"the fallback function needs opset {_OPSET} to unpack a blocked layout, the model has {opset}; "
            "export it again"
        )
    nodes = [*constant_nodes(unpack.tables), *_parsed(unpack, opset), *body]
    del function.node[:]
    function.node.extend(nodes)
    function.input[1], function.input[2] = unpack.inputs


def own_layout(function: onnx.FunctionProto) -> str:
    """The layout that the function computes of, which nodes in front of it may have made of another one."""
    in_codes = any(CODES in node.input for node in function.node if not _unpacks(node))
    return CODES if in_codes else OP.layouts[0].name


def constant_nodes(arrays: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    """Constant nodes that give the arrays their names."""
    return [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value)) for name, value in arrays.items()
    ]


def attribute_list(operator: Operator, version: int = OP.version) -> str:
    """The attributes that a function of that version of the operator has, in ONNX's text form."""
    known = sorted((a for a in operator.attributes if a.since <= version), key=lambda a: a.default is not None)
    return ", ".join(a.name if a.default is None else f"{a.name}: int = {a.default}" for a in known)


def check_function(function: onnx.FunctionProto) -> None:
    """Hold a function of a model against ONNX's rules."""
    context = onnx.checker.C.CheckerContext()
    context.ir_version = onnx.IR_VERSION
    imports = {entry.domain: entry.version for entry in function.opset_import}
    context.opset_imports = {"com.microsoft": 1, **dict.fromkeys(OP.domain_names, OP.version), **imports}
    onnx.checker.check_function(function, context)


def _with_codes(unpack: UnpackFunction, plane_format: PlaneFormat) -> UnpackFunction:
    """`unpack`, and nodes that make codes of its planes, where these are not stored."""
    if plane_format.layout == CODES:
        return UnpackFunction((CODES, "scales"), "", {})
    text, tables = pack_codes_text(plane_format.planes)
    named = {f"{PREFIX}{name}": table for name, table in tables.items()}
    return replace(unpack, text=unpack.text + text.replace("~", PREFIX), tables=unpack.tables | named)


def _unpacks(node: onnx.NodeProto) -> bool:
    return all(name in _UNPACKED or name.startswith(PREFIX) for name in node.output)


def _parsed(unpack: UnpackFunction, opset: int) -> list[onnx.NodeProto]:
    if not unpack.text:
        return []
    text = (
        f'<domain: "unpack", opset_import: ["" : {opset}]>\n'
        f"unpack <K, N, group_size> ({', '.join(unpack.inputs)}) => (planes, scales) {{\n{unpack.text}}}"
    )
    return list(parser.parse_function(text).node)
