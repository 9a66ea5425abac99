"""The fallback function of a model, changed from one stored layout to another."""

import onnx
from onnx import helper, numpy_helper, parser

from dualbinary.errors import InputError
from dualbinary.onnx_files.unpack_function import PREFIX, Decoding

__all__ = ["exchange_decoding"]

_OPSET = 18  # the first with bitwise operators
_DECODED = {"planes", "scales"}


def exchange_decoding(function: onnx.FunctionProto, stored: Decoding) -> None:
    """Put `stored` in the place of what decodes another layout in front of the function's body, or of nothing.

    Raises InputError where the function is not one of ours, or its opset lacks the operators.
    """
    opset = next((entry.version for entry in function.opset_import if entry.domain in ("", "ai.onnx")), 0)
    body = [node for node in function.node if not _decodes(node)]
    if len(function.input) != 3 or not any(_DECODED.intersection(node.input) for node in body):
        raise InputError(
            f"the fallback function {function.domain}::{function.name} was not made by this project's exporter, and "
            "may not know another layout; export the model again, or remove the function"
        )
    if stored.text and opset < _OPSET:
        raise InputError(
            f"the fallback function needs opset {_OPSET} to decode a layout of blocks, the model has {opset}; "
            "export it again"
        )
    tables = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
        for name, value in stored.tables.items()
    ]
    nodes = [*tables, *_parsed(stored, opset), *body]
    del function.node[:]
    function.node.extend(nodes)
    function.input[1], function.input[2] = stored.inputs


def _decodes(node: onnx.NodeProto) -> bool:
    return all(name in _DECODED or name.startswith(PREFIX) for name in node.output)


def _parsed(stored: Decoding, opset: int) -> list[onnx.NodeProto]:
    if not stored.text:
        return []
    text = (
        f'<domain: "decoding", opset_import: ["" : {opset}]>\n'
        f"decode <N, group_size> ({', '.join(stored.inputs)}) => (planes, scales) {{\n{stored.text}}}"
    )
    return list(parser.parse_function(text).node)
