"""Blocks become the nodes again that they stand for."""

import onnx

from dualbinary.contract.schema import ATTENTION, MLP
from dualbinary.errors import InputError

__all__ = ["has_blocks", "unfuse_blocks"]

_BLOCKS = (MLP.name, ATTENTION.name)


def _is_block(node: onnx.NodeProto) -> bool:
    return node.domain in MLP.domain_names and node.op_type in _BLOCKS


def has_blocks(model: onnx.ModelProto) -> bool:
    """Tell if a node of the graph is a block."""
    return any(_is_block(node) for node in model.graph.node)


def unfuse_blocks(model: onnx.ModelProto) -> bool:
    """Put the body of its function in the place of each block, and drop these functions. Tells if there were any.

    Values inside of a block get its name in front. Raises InputError for a block without a function.
    """
    if not has_blocks(model):
        return False
    functions = {(each.domain, each.name): each for each in model.functions if each.name in _BLOCKS}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if not _is_block(node):
            nodes.append(copy)
            continue
        function = functions.get((node.domain, node.op_type))
        if function is None:
            raise InputError(
                f"node '{node.name}': the model has no function {node.domain}::{node.op_type}, which says what the "
                "block consists of; export the model again, or with --fuse none"
            )
        nodes += _inlined(node, function)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    kept = [each for each in model.functions if each.name not in _BLOCKS]
    del model.functions[:]
    model.functions.extend(kept)
    return True


def _inlined(node: onnx.NodeProto, function: onnx.FunctionProto) -> list[onnx.NodeProto]:
    if len(node.input) > len(function.input) or len(node.output) > len(function.output):
        raise InputError(
            f"node '{node.name}': has more inputs or outputs than its function {function.domain}::{function.name}"
        )
    names = dict.fromkeys(function.input, "") | dict(zip(function.input, node.input, strict=False))
    names |= dict(zip(function.output, node.output, strict=False))
    result = []
    for inner in function.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(inner)
        copy.name = f"{node.name}.{inner.name}"
        for values in (copy.input, copy.output):
            for index, value in enumerate(values):
                if value:
                    values[index] = names.setdefault(value, f"{node.name}.{value}")
        result.append(copy)
    return result
