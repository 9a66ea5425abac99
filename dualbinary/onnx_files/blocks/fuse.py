"""Nodes of decoder layers become blocks."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import helper

from dualbinary.contract.schema import ATTENTION, MLP, OP, Operator
from dualbinary.onnx_files.blocks.chains import Chains, attribute
from dualbinary.onnx_files.blocks.patterns import Block, match_attention, match_mlp

__all__ = ["FusedBlocks", "fuse_blocks"]

_SKIP_NORM = "SkipSimplifiedLayerNormalization"
_ATTENTION_NODE = "GroupQueryAttention"
_NORM_OPSET = 23  # the first with RMSNormalization


@dataclass(frozen=True)
class FusedBlocks:
    """What `fuse_blocks` found: blocks that it made, and attention nodes of the model that stay as they are."""

    mlp: int
    attention: int
    other_attention: int

    @classmethod
    def none(cls, model: onnx.ModelProto) -> "FusedBlocks":
        """What a model has that is left as it is."""
        return cls(0, 0, sum(node.op_type == _ATTENTION_NODE for node in model.graph.node))


def fuse_blocks(model: onnx.ModelProto) -> FusedBlocks:
    """Replace what blocks can stand for, in place. Values that others read, and initializers, keep their names.

    Residual sums that belong to a block leave the norm behind them a node of its own. Blocks whose nodes differ have
    functions in different domains; where these are used up, layers stay as they are.
    """
    graph = model.graph
    before = FusedBlocks.none(model)
    if _opset(model) < _NORM_OPSET:
        return before
    skips = _split_skips(graph)
    functions = _Functions(model)
    blocks = [block for block in _blocks(graph) if functions.add(block)]
    if blocks:
        _replace(graph, blocks)
    _join_skips(graph, skips)
    if blocks:
        _tidy(model)
    made = {operator.name: sum(block.operator is operator for block in blocks) for operator in (MLP, ATTENTION)}
    return FusedBlocks(made[MLP.name], made[ATTENTION.name], before.other_attention - made[ATTENTION.name])


def _opset(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def _split_skips(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Sum and norm as two nodes. Returns the old nodes by the name of the norm's result."""
    nodes, skips = [], {}
    for node in graph.node:
        if node.op_type != _SKIP_NORM or len(node.input) != 3:
            nodes.append(node)
            continue
        total = node.output[3] if len(node.output) > 3 and node.output[3] else f"{node.output[0]}.sum"
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        skips[node.output[0]] = kept
        nodes.append(helper.make_node("Add", node.input[:2], [total], name=f"{node.name}.sum"))
        epsilon = attribute(node, "epsilon", 1e-5)
        norm = helper.make_node(
            "RMSNormalization", [total, node.input[2]], node.output[:1], name=node.name, axis=-1, epsilon=epsilon
        )
        nodes.append(norm)
    _set_nodes(graph, nodes)
    return skips


def _join_skips(graph: onnx.GraphProto, skips: dict[str, onnx.NodeProto]) -> None:
    """Put the old nodes back where sum and norm are both still there."""
    givers = {name: node for node in graph.node for name in node.output}
    nodes, dropped = [], set()
    for node in graph.node:
        old = skips.get(node.output[0]) if node.op_type == "RMSNormalization" else None
        total = givers.get(node.input[0]) if old is not None else None
        if old is None or total is None or total.name != f"{old.name}.sum":
            nodes.append(node)
            continue
        dropped.add(id(total))
        nodes.append(old)
    # The sum stands in front of the norm, and whatever reads it behind that.
    _set_nodes(graph, [node for node in nodes if id(node) not in dropped])


def _set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)


def _blocks(graph: onnx.GraphProto) -> Iterator[Block]:
    chains = Chains(graph)
    for node in graph.node:
        block = None
        if node.op_type == OP.name and node.domain in OP.domain_names:
            block = match_mlp(chains, node)
        elif node.op_type == _ATTENTION_NODE:
            block = match_attention(chains, node)
        if block is not None:
            yield block


class _Functions:
    """The functions of blocks in a model, one for each body."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._chains = Chains(model.graph)
        self._order = {id(node): index for index, node in enumerate(model.graph.node)}
        self._places = {name: index for index, node in enumerate(model.graph.node) for name in node.output}
        self._domains: dict[tuple[str, bytes], str] = {}

    def add(self, block: Block) -> bool:
        """Give the block a domain whose function has its body. False where there is none left."""
        function = self._function(block)
        if function is None:
            return False
        key = block.operator.name, hashlib.sha256(function.SerializeToString(deterministic=True)).digest()
        if key not in self._domains:
            taken = sum(name == block.operator.name for name, _ in self._domains)
            if taken == len(block.operator.domain_names):
                return False
            domain = self._domains[key] = block.operator.domain_names[taken]
            function.domain = domain
            self._model.functions.append(function)
            imported = {entry.domain for entry in self._model.opset_import}
            if domain not in imported:
                self._model.opset_import.append(helper.make_opsetid(domain, OP.version))
        block.attributes["domain"] = self._domains[key]
        return True

    def _function(self, block: Block) -> onnx.FunctionProto | None:
        """The block's nodes, in their order, with names of the contract; None where they read data of other files."""
        nodes = sorted(block.nodes, key=lambda node: self._places[node.output[0]])
        names = {value: name for name, value in (block.inputs | block.outputs).items()}
        body: list[onnx.NodeProto] = []
        for node in nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            del copy.metadata_props[:]
            copy.doc_string = ""
            copy.ClearField("overload")
            if node.op_type == "RMSNormalization":
                epsilon = attribute(node, "epsilon", 1e-5)
                del copy.attribute[:]
                copy.attribute.extend(helper.make_node("", [], [], axis=-1, epsilon=epsilon).attribute)
            if node.op_type == "Add" and names.get(node.input[1]) == "X":
                copy.input[0], copy.input[1] = node.input[1], node.input[0]
            copy.name = f"{node.op_type}_{len(body)}"
            for index, value in enumerate(list(copy.input)):
                if value and value not in names:
                    constant = self._constant(value, len(names))
                    if constant is None:
                        return None
                    names[value] = constant.output[0]
                    body.append(constant)
                copy.input[index] = names[value] if value else ""
            for index, value in enumerate(node.output):
                if value:
                    names.setdefault(value, f"v{len(names)}")
                copy.output[index] = names[value] if value else ""
            body.append(copy)
        inputs = _used_inputs(block.operator, block)
        imports = [entry for entry in self._model.opset_import if entry.domain in {node.domain for node in body} | {""}]
        return helper.make_function(
            block.operator.domain,
            block.operator.name,
            inputs,
            [value.name for value in block.operator.outputs],
            body,
            imports,
            attributes=sorted(block.attributes),
        )

    def _constant(self, name: str, number: int) -> onnx.NodeProto | None:
        array = self._chains.array(name)
        if array is None:
            return None
        tensor = onnx.numpy_helper.from_array(array)
        return helper.make_node("Constant", [], [f"v{number}"], name=f"Constant_{number}", value=tensor)


def _used_inputs(operator: Operator, block: Block) -> list[str]:
    """Names of the contract's inputs up to the last that the block has."""
    names = [value.name for value in operator.inputs]
    return names[: 1 + max(names.index(name) for name in block.inputs)]


def _replace(graph: onnx.GraphProto, blocks: list[Block]) -> None:
    """Put each block where the last of its nodes was."""
    places = {node.output[0]: index for index, node in enumerate(graph.node)}
    gone, new = set(), {}
    for block in blocks:
        indices = [places[node.output[0]] for node in block.nodes]
        gone.update(indices)
        inputs = [block.inputs.get(name, "") for name in _used_inputs(block.operator, block)]
        outputs = [block.outputs[value.name] for value in block.operator.outputs]
        new[max(indices)] = helper.make_node(block.operator.name, inputs, outputs, name=block.name, **block.attributes)
    nodes = []
    for index, node in enumerate(graph.node):
        if index in new:
            nodes.append(new[index])
        elif index not in gone:
            nodes.append(node)
    _set_nodes(graph, nodes)


def _tidy(model: onnx.ModelProto) -> None:
    """Drop what nothing needs any more: initializers, descriptions of values, functions, domains."""
    graph = model.graph
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    given = {name for node in graph.node for name in node.output}
    inner = any(each.g.node or each.graphs for node in graph.node for each in node.attribute)
    if not inner:
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)
    nodes = [node for node in graph.node if node.op_type != "Constant" or node.output[0] in read]
    if len(nodes) < len(graph.node):
        _set_nodes(graph, nodes)
    values = [value for value in graph.value_info if value.name in given]
    del graph.value_info[:]
    graph.value_info.extend(values)
    bodies = [node for function in model.functions for node in function.node]
    used = {(node.domain, node.op_type) for node in (*graph.node, *bodies)}
    functions = [function for function in model.functions if (function.domain, function.name) in used]
    del model.functions[:]
    model.functions.extend(functions)
