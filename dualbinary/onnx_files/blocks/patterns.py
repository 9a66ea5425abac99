"""Which nodes of a decoder layer a block stands for, and what it says of them.

The residual stream X goes through [RMS norm], a product, what is between, another product, [bias], [RMS norm], and is
added to the result. Between the products of a DualBinaryMlp is Split, an activation of the first half, and its product
with the second half:

    SiLU        Mul (g, Sigmoid (g))
    GELU        Gelu (g), by tanh or erf

and between those of a DualBinaryAttention [bias] and GroupQueryAttention, whose query and key may go through an RMS
norm of each head, and whose cache may be of another type: Cast of float16, or the functions of `int8_rows`, in front
of the node and behind it. Whatever else there is leaves a layer as it is.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from dualbinary.contract.schema import ATTENTION, MLP, OP, Operator
from dualbinary.onnx_files.blocks.chains import Chains, attribute
from dualbinary.onnx_files.int8_rows import FROM_INT8, TO_INT8

__all__ = ["Block", "match_attention", "match_mlp"]

_MICROSOFT = ("com.microsoft",)
_CACHE_RANK = 4  # [batch, heads, tokens, head size]
_GQA_INPUTS = 9  # query to sin_cache; what comes behind is not part of a block
_GQA_ATTRIBUTES = {
    *("num_heads", "kv_num_heads", "scale", "softcap", "local_window_size", "do_rotary", "rotary_interleaved"),
}


@dataclass
class Block:
    """A block that may take the place of some nodes.

    Attributes:
        operator: which.
        nodes: those that it stands for.
        inputs: by name of the contract, the values of the graph.
        outputs: by name, likewise.
        attributes: of the node.
        name: of the node: that of the module that both products belong to.
    """

    operator: Operator
    nodes: list[onnx.NodeProto]
    inputs: dict[str, str]
    outputs: dict[str, str]
    attributes: dict[str, Any]
    name: str = ""
    _epsilons: list[float] = field(default_factory=list)

    def add_product(self, prefix: str, node: onnx.NodeProto) -> None:
        """Take a DualBinaryMatMul node in."""
        self.nodes.append(node)
        self.inputs |= {f"{prefix}_planes": node.input[1], f"{prefix}_scales": node.input[2]}
        given = {each.name: each.i for each in node.attribute}
        sizes = ("K", "N")
        self.attributes |= {f"{prefix}_{name}": value for name, value in given.items() if name not in sizes}

    def add_norm(self, name: str, node: onnx.NodeProto) -> None:
        """Take an RMSNormalization node in, whose weight becomes the input `name`."""
        self.nodes.append(node)
        self.inputs[name] = node.input[1]
        self._epsilons.append(attribute(node, "epsilon", 1e-5))

    def has_one_epsilon(self) -> bool:
        """Tell if all norms have the same epsilon, which the node then has; a node without norms has none."""
        if self._epsilons:
            self.attributes["epsilon"] = self._epsilons[0]
        return len(set(self._epsilons)) <= 1


def _size(node: onnx.NodeProto, name: str) -> int:
    return int(attribute(node, name, 0))


def _norm(chains: Chains, name: str) -> onnx.NodeProto | None:
    """The RMS norm over the last dimension that gives the value."""
    node = chains.producer(name, "RMSNormalization")
    if node is None or attribute(node, "axis", -1) != -1 or attribute(node, "stash_type", 1) != 1:
        return None
    return node


def _without_bias(chains: Chains, name: str, width: int, block: Block, bias: str) -> str:
    """What a bias [width] was added to, which the block takes in; `name` itself where none was."""
    node = chains.producer(name, "Add")
    if node is None:
        return name
    for value, other in (node.input, node.input[::-1]):
        tensor = chains.initializers.get(other)
        if tensor is not None and tuple(tensor.dims) == (width,) and chains.only_user(value) is not None:
            block.nodes.append(node)
            block.inputs[bias] = other
            return value
    return name


def _begin(chains: Chains, product: onnx.NodeProto, prefix: str, block: Block) -> bool:
    """Take in the first product, and the norm in front of it; X becomes known."""
    block.add_product(prefix, product)
    block.inputs["X"] = product.input[0]
    norm = _norm(chains, product.input[0])
    if norm is not None and chains.only_user(norm.output[0]) is not None:
        block.add_norm("norm_weight", norm)
        block.inputs["X"] = norm.input[0]
    return True


def _end(chains: Chains, product: onnx.NodeProto, prefix: str, block: Block) -> bool:
    """Take in the last product, and all up to the residual sum with X, whose result is Y."""
    block.add_product(prefix, product)
    width = _size(product, "N")
    value = product.output[0]
    user = chains.only_user(value)
    if user is not None and user.op_type == "Add" and block.inputs["X"] not in user.input:
        bias = next((name for name in user.input if name != value), "")
        tensor = chains.initializers.get(bias)
        if tensor is None or tuple(tensor.dims) != (width,):
            return False
        block.nodes.append(user)
        block.inputs[f"{prefix}_bias"] = bias
        value = user.output[0]
        user = chains.only_user(value)
    if user is not None and _norm(chains, user.output[0]) is user and user.input[0] == value:
        block.add_norm("post_norm_weight", user)
        value = user.output[0]
        user = chains.only_user(value)
    if user is None or user.op_type != "Add" or sorted(user.input) != sorted([block.inputs["X"], value]):
        return False
    block.nodes.append(user)
    block.outputs["Y"] = user.output[0]
    block.name = _module(block)
    return block.has_one_epsilon() and _is_closed(chains, block)


def _module(block: Block) -> str:
    """The part that the names of both products' planes begin with, up to a dot."""
    names = [block.inputs[f"{prefix}_planes"].split(".") for prefix in block.operator.products]
    shared: list[str] = []
    for parts in zip(*names, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared) or block.outputs["Y"]


def _is_closed(chains: Chains, block: Block) -> bool:
    """Tell if nobody else reads what the block's nodes give, but for its outputs."""
    given = {name for node in block.nodes for name in node.output if name}
    return chains.is_private(given - set(block.outputs.values()), block.nodes)


def match_mlp(chains: Chains, down: onnx.NodeProto) -> Block | None:
    """The DualBinaryMlp whose last product is `down`, if there is one."""
    block = Block(MLP, [], {}, {}, {})
    product = chains.producer(down.input[0], "Mul")
    if product is None:
        return None
    for activated, up in (product.input, product.input[::-1]):
        split = chains.producer(up, "Split")
        if split is None or len(split.output) != 2 or up != split.output[1]:
            continue
        activation, nodes = _activation(chains, activated, split.output[0])
        if activation is None:
            continue
        intermediate = _size(down, "K")
        hidden = _without_bias(chains, split.input[0], 2 * intermediate, block, "gate_up_bias")
        first = chains.product(hidden)
        if first is None or _size(first, "N") != 2 * intermediate or not _halves(chains, split, intermediate):
            return None
        block.nodes += [product, split, *nodes]
        block.attributes |= {"hidden_size": _size(first, "K"), "intermediate_size": intermediate}
        block.attributes["activation"] = activation
        fits = _size(first, "K") == _size(down, "N")
        complete = fits and _begin(chains, first, "gate_up", block) and _end(chains, down, "down", block)
        return block if complete else None
    return None


def _halves(chains: Chains, split: onnx.NodeProto, size: int) -> bool:
    """Tell if a Split of the last dimension gives two parts of that size."""
    if attribute(split, "axis", 0) not in (-1, 2):
        return False
    if len(split.input) < 2 or not split.input[1]:
        return attribute(split, "num_outputs", 2) == 2
    sizes = chains.array(split.input[1])
    return sizes is not None and sizes.tolist() == [size, size]


def _activation(chains: Chains, value: str, gate: str) -> tuple[int | None, list[onnx.NodeProto]]:
    """The contract's number of the activation of `gate` that `value` is, and its nodes."""
    gelu = chains.producer(value, "Gelu")
    if gelu is not None and gelu.input[0] == gate:
        by_tanh = any(each.name == "approximate" and each.s == b"tanh" for each in gelu.attribute)
        return 1 if by_tanh else 2, [gelu]
    product = chains.producer(value, "Mul")
    if product is None or gate not in product.input:
        return None, []
    sigmoid = chains.producer(next((name for name in product.input if name != gate), ""), "Sigmoid")
    if sigmoid is None or sigmoid.input[0] != gate:
        return None, []
    return 0, [product, sigmoid]


def match_attention(chains: Chains, node: onnx.NodeProto) -> Block | None:
    """The DualBinaryAttention around a GroupQueryAttention node that reads a cache, if there is one."""
    if any(node.input[_GQA_INPUTS:]) or {each.name for each in node.attribute} - _GQA_ATTRIBUTES:
        return None
    if (
        len(node.input) < 7
        or not all(node.input[3:7])
        or len(node.output) < 3
        or any(not chains.is_unused(name) for name in node.output[3:])
    ):
        return None
    if bool(attribute(node, "do_rotary", 0)) != (len(node.input) == _GQA_INPUTS and all(node.input[7:9])):
        return None
    block = Block(ATTENTION, [node], {}, {}, {})
    names = ("last_keys", "longest", "cos_table", "sin_table")
    block.inputs |= {name: value for name, value in zip(names, node.input[5:], strict=False) if value}
    forms = {_take_cache(chains, node, block, index) for index in (0, 1)}
    _, head_size = next(iter(forms))
    multiple, most = ATTENTION.limits["head_multiple"], ATTENTION.limits["max_head_size"]
    if len(forms) > 1 or head_size % multiple or not 0 < head_size <= most:
        return None
    heads, kv_heads = _size(node, "num_heads"), _size(node, "kv_num_heads")
    block.attributes |= {"num_heads": heads, "kv_num_heads": kv_heads, "head_size": head_size}
    block.attributes["scale"] = attribute(node, "scale", 0) or head_size**-0.5
    for name in ("softcap", "rotary_interleaved"):
        if value := attribute(node, name, 0):
            block.attributes[name] = value
    if (window := attribute(node, "local_window_size", -1)) > 0:
        block.attributes["local_window_size"] = window
    joined = _joined_heads(chains, node, block, head_size)
    last = chains.only_user(node.output[0])
    if joined is None or last is None or last.op_type != OP.name or last.input[0] != node.output[0]:
        return None
    width = (heads + 2 * kv_heads) * head_size
    first = chains.product(_without_bias(chains, joined, width, block, "qkv_bias"))
    if first is None or _size(first, "N") != width or _size(first, "K") != _size(last, "N"):
        return None
    block.attributes["hidden_size"] = _size(first, "K")
    complete = _begin(chains, first, "qkv", block) and _end(chains, last, "o", block)
    return block if complete else None


def _take_cache(chains: Chains, node: onnx.NodeProto, block: Block, index: int) -> tuple[str, int]:
    """Take in keys (0) or values (1) with the nodes that change their type.

    Returns the operator that reads the cache, "" for none, and the size of its heads, 0 for what no block reads.
    """
    name = ("key", "value")[index]
    past, present = node.input[3 + index], node.output[1 + index]
    before = chains.producer(past, "Cast") or chains.producer(past, FROM_INT8, domains=OP.domain_names)
    after = chains.only_user(present)
    reader = "" if before is None else before.op_type
    if before is not None:
        expected = {"Cast": "Cast", FROM_INT8: TO_INT8}[reader]
        if chains.only_user(past) is not node or after is None or after.op_type != expected:
            return reader, 0
        block.nodes += [before, after]
        past, present = before.input[0], after.output[0]
    cache = chains.inputs.get(past)
    if cache is None or len(cache.shape.dim) != _CACHE_RANK:
        return reader, 0
    if reader == "Cast" and cache.elem_type != onnx.TensorProto.FLOAT16:
        return reader, 0
    block.inputs[f"past_{name}"], block.outputs[f"present_{name}"] = past, present
    factor = ATTENTION.limits["scale_bytes"] if reader == FROM_INT8 else 0
    return reader, cache.shape.dim[3].dim_value - factor


def _joined_heads(chains: Chains, node: onnx.NodeProto, block: Block, head_size: int) -> str | None:
    """The value with query, key and value in one."""
    query, key, value = node.input[:3]
    if not key and not value:
        return query
    split = chains.producer(value, "Split")
    if (
        split is None
        or len(split.output) != 3
        or split.output[2] != value
        or attribute(split, "axis", 0) not in (-1, 2)
    ):
        return None
    sources = [
        _head_norm(chains, name, block, weight, head_size)
        for name, weight in ((query, "q_norm_weight"), (key, "k_norm_weight"))
    ]
    if sources != list(split.output[:2]):
        return None
    block.nodes.append(split)
    return split.input[0]


def _head_norm(chains: Chains, name: str, block: Block, weight: str, head_size: int) -> str | None:
    """What goes through Reshape, an RMS norm of each head, and Reshape."""
    outer = chains.producer(name, "Reshape")
    norm = _norm(chains, outer.input[0]) if outer is not None else None
    inner = chains.producer(norm.input[0], "Reshape") if norm is not None else None
    if outer is None or norm is None or inner is None:
        return None
    shape = chains.array(inner.input[1])
    if shape is None or shape.shape != (4,) or int(np.asarray(shape)[3]) != head_size:
        return None
    block.nodes += [outer, inner]
    block.add_norm(weight, norm)
    return inner.input[0]
