"""All graph passes in order: from the builder's portable graph to the one that is stored."""

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dualbinary import OP, InputError, padded_k
from dualbinary.contract.weight import PlaneFormat
from exporter.graph.build import BuiltGraph
from exporter.graph.fallback_function import fallback_function
from exporter.graph.passes.group_query_attention import GroupQueryAttentionPass
from exporter.graph.passes.half_attention import HalfAttentionPass
from exporter.graph.passes.last_logits import LastLogitsPass
from exporter.graph.passes.linear import DualBinaryLinearPass, Linear, PlaneNode, find_linears
from exporter.graph.passes.lower_opset import LowerOpsetPass
from exporter.graph.passes.pack_qkv import PackQkvPass
from exporter.graph.passes.vocabulary import Table, VocabularyPass, find_embedding, find_head
from exporter.graph.passes.zero_points import ExplicitZeroPointsPass
from exporter.options import ExportOptions
from exporter.source.parameters import Weights

__all__ = ["Rewritten", "rewrite"]

_SCALE_DTYPES = {"F16": np.dtype(np.float16), "F32": np.dtype(np.float32)}
_CODES = np.dtype(np.uint8)
_DTYPES = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16}
_ROUTERS = (".gate", ".router")  # of mixtures of experts: tiny, and wrong choices are expensive


@dataclass(frozen=True)
class Rewritten:
    """What the passes made that waits for data.

    nodes: the DualBinaryMatMul nodes.
    tables: token embedding and head.
    joined_biases: name of a bias that a pass made to the names of the parameters it joins.
    """

    nodes: tuple[PlaneNode, ...]
    tables: tuple[Table, ...]
    joined_biases: dict[str, tuple[str, ...]]


def rewrite(graph: BuiltGraph, weights: Weights, options: ExportOptions) -> Rewritten:
    """Run all passes over `graph`."""
    model, dtype = graph.model, _DTYPES[options.activations]
    GroupQueryAttentionPass(graph.window, weights.source.sliding_window)(model)
    RemoveUnusedNodesPass()(model)  # what the rotations and masks left behind would count as users
    linears = find_linears(model)
    head, embedding = find_head(model, linears), find_embedding(model)
    formats = {
        linear.parameter: plane_format
        for linear in linears
        if linear is not head and (plane_format := _plane_format(linear, weights, options)) is not None
    }
    quantized = [linear for linear in linears if linear.parameter in formats]
    linear_pass = DualBinaryLinearPass(quantized, formats, options.accuracy_level)
    linear_pass(model)
    pack_pass = PackQkvPass()
    pack_pass(model)
    if options.logits == "last":
        LastLogitsPass(head and head.matmul)(model)
    tied = head is not None and embedding is not None and _tied(head, embedding, weights)
    vocabulary = VocabularyPass(
        embedding, head, tied=tied, bits=options.embedding_bits, dtype=dtype, accuracy_level=options.accuracy_level
    )
    vocabulary(model)
    if options.target == "cuda":
        _refuse_many_inputs(linear_pass.nodes)
        HalfAttentionPass()(model)
        ExplicitZeroPointsPass()(model)
    RemoveUnusedNodesPass()(model)
    for value in [v for v in model.graph.inputs if v.name == "position_ids" and not v.uses()]:
        model.graph.inputs.remove(value)
    LowerOpsetPass()(model)
    if options.fallback != "none" and linear_pass.nodes:
        _add_fallback(model, linear_pass.nodes, options)
    return Rewritten(tuple(linear_pass.nodes), tuple(vocabulary.tables), pack_pass.joined)


def _refuse_many_inputs(nodes: list[PlaneNode]) -> None:
    limit = OP.cuda["max_k"]
    for linear in (node.linears[0] for node in nodes):
        if limit < linear.K:
            raise InputError(
                f"{linear.parameter}: the kernels of --target cuda take up to {limit} inputs, got {linear.K}; use "
                "--target cpu"
            )


def _add_fallback(model: ir.Model, nodes: list[PlaneNode], options: ExportOptions) -> None:
    first = nodes[0].format  # planes, offset and 8-bit scales are one choice for the whole model
    if OP.layout_named(options.layout).blocks and len({node.format.scale_dtype for node in nodes}) > 1:
        raise InputError(
            f"--layout {options.layout}: the checkpoint has scales of several types, which one fallback function "
            "cannot decode; use --scale-bits 8, or --fallback none"
        )
    group_sizes = {node.format.group_size for node in nodes}
    opset = model.graph.opset_imports[""]
    function = fallback_function(
        options.fallback, first.planes, first.offset, first.scale_dtype, group_sizes, opset, options.layout
    )
    model.functions[function.identifier()] = function
    model.graph.opset_imports.setdefault("com.microsoft", 1)


def _plane_format(linear: Linear, weights: Weights, options: ExportOptions) -> PlaneFormat | None:
    """The format of a layer's planes; None for a layer that stays in full precision."""
    stored = weights.source.quantization
    if stored is not None:
        if not weights.has_planes(linear.parameter):
            return None
        dtype = _SCALE_DTYPES[weights.stored_scale_dtype(linear.parameter)]
        plane_format = stored.plane_format.for_inputs(linear.K)
        dtype = _CODES if options.scale_bits == 8 else dtype
        return replace(plane_format, scale_dtype=dtype, layout=options.layout)
    if linear.module.endswith(_ROUTERS):
        return None
    # A row shorter than a group is one group.
    group_size = min(options.fit_group_size, padded_k(linear.K, OP.limits["group_multiple"]))
    dtype = _CODES if options.scale_bits == 8 else _SCALE_DTYPES["F16"]
    return PlaneFormat(options.fit_planes, group_size, options.fit_offset, scale_dtype=dtype, layout=options.layout)


def _tied(head: Linear, embedding: ir.Node, weights: Weights) -> bool:
    table = embedding.inputs[0]
    return head.weight is table or (table is not None and weights.same(head.parameter, str(table.name)))
