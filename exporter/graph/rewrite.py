"""All graph passes in order: from the builder's portable graph to the one that is stored."""

from collections.abc import Collection, Iterable, Mapping
from functools import partial

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dualbinary import OP, InputError
from dualbinary.contract.rotation import Rotation, random_rotation
from dualbinary.contract.weight import PlaneFormat
from dualbinary.errors import OptionError
from dualbinary.files.cache_names import PAST_STATE
from dualbinary.files.model_files import LONG_ROPE_AFTER, VERIFY_TOKENS
from exporter.graph.block_trial import layers_without_block
from exporter.graph.build import BuiltGraph
from exporter.graph.dry_run import refuse_what_cannot_run
from exporter.graph.export_graph import ExportGraph, PlaneNode
from exporter.graph.fallback_function import fallback_functions, function_domains
from exporter.graph.layers import Linear, find_embeddings, find_head, find_linears
from exporter.graph.parameters import Parameters
from exporter.graph.passes.attention_f16 import AttentionF16Pass
from exporter.graph.passes.cache_types import CacheTypePass
from exporter.graph.passes.group_query_attention import GroupQueryAttentionPass
from exporter.graph.passes.linear import DualBinaryLinearPass
from exporter.graph.passes.logits_columns import LogitsColumnsPass
from exporter.graph.passes.lower_opset import LowerOpsetPass
from exporter.graph.passes.pack_qkv import PackQkvPass
from exporter.graph.passes.rotation_tables import RotationTablesPass
from exporter.graph.passes.stock_products import StockProductsPass
from exporter.graph.passes.vocabulary import FloatTables, TableForm, VocabularyPass
from exporter.graph.passes.vocabulary_blocks import BlockTables
from exporter.graph.passes.vocabulary_planes import PlaneTables
from exporter.graph.passes.zero_points import ExplicitZeroPointsPass
from exporter.graph.plane_formats import ExactWeights, input_orders, layer_formats, stored_table_form
from exporter.graph.rotations import Rotations
from exporter.graph.signed_hadamard import HadamardKind, settle_hadamards
from exporter.graph.wide_product import Calls
from exporter.options import CUDA_PLANES, STOCK, ExportOptions

__all__ = ["rewrite"]

_DTYPES = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16}
_SHOWN_LAYERS = 4
_FLOAT_TABLES = {16: ir.DataType.FLOAT16, 32: ir.DataType.FLOAT}


def rewrite(
    graph: BuiltGraph, parameters: Parameters, options: ExportOptions, *, progress: bool = False
) -> ExportGraph:
    """Run all passes over `graph`. `progress` shows a bar where weights are read for their exact forms."""
    model = graph.model
    embeddings = find_embeddings(model)  # as long as they look up input_ids themselves
    attention_pass = _attention_pass(graph, options)
    attention_pass(model)
    _refuse_lost_window(graph)
    _refuse_states(graph, parameters.source.model_type, options, together=attention_pass.rows is not None)
    RemoveUnusedNodesPass()(model)  # what is left of the rotations and masks would count as users
    tables_pass = RotationTablesPass(options.max_length)
    tables_pass(model)
    refuse_what_cannot_run(model, parameters.source.model_type)
    linears = find_linears(model)
    head = find_head(model, linears)
    formats, exact = layer_formats([each for each in linears if each is not head], parameters, options, progress)
    tables = _table_parameters(embeddings, head)
    rotations = Rotations.of(formats, tables, parameters, partial(_fitted_rotation, exact, options))
    linear_pass = DualBinaryLinearPass(formats, input_orders(formats, parameters), rotations, options.accuracy_level)
    linear_pass(model)
    nodes = linear_pass.nodes
    if options.op in STOCK:
        stock_pass = _stock_pass(nodes, options)
        stock_pass(model)
        nodes = stock_pass.nodes
    pack_pass = PackQkvPass()
    pack_pass(model)
    last, verify = options.logits == "last", 0 if _has_states(model) else options.verified_tokens
    LogitsColumnsPass(head and head.matmul, attention_pass.rows, last=last, verify=verify)(model)
    if verify:
        model.metadata_props[VERIFY_TOKENS] = str(verify)
    vocabulary_pass = VocabularyPass(
        embeddings,
        head,
        _table_form(options),
        tied=next((node for node in embeddings if head is not None and _tied(head, node, parameters)), None),
        check_ids=options.target == "cpu",
        stored=_stored_tables(tables, parameters, options),
        rotations=rotations,
    )
    vocabulary_pass(model)
    if options.target == "cuda":
        if options.op == "dualbinary":
            _refuse_many_inputs(nodes)
        AttentionF16Pass()(model)
        ExplicitZeroPointsPass()(model)
    _remove_unused(model)
    LowerOpsetPass()(model)
    if options.converts_cache:
        CacheTypePass(options.cache_type)(model)
        _refuse_kept_attention(model, parameters.source.model_type, options)
    settle_hadamards(model, _hadamard_kind(options), _DTYPES[options.activations])
    occurring = {node.planes: node.plane_format for node in nodes if node.stock is None}
    occurring |= {t.values[0]: t.plane_format for t in vocabulary_pass.tables if t.plane_format is not None}
    if options.fallback != "none" and occurring:
        _add_fallback(model, occurring, options)
    tables = tuple(vocabulary_pass.tables), vocabulary_pass.of_head
    return ExportGraph(model, tuple(nodes), *tables, pack_pass.joined, tables_pass.length, exact, signs=rotations.signs)


def _attention_pass(graph: BuiltGraph, options: ExportOptions) -> GroupQueryAttentionPass:
    ragged = options.batch_steps == "many"
    return GroupQueryAttentionPass(graph.window, graph.longest_window, ragged_steps=ragged)


def _stock_pass(nodes: list[PlaneNode], options: ExportOptions) -> StockProductsPass:
    """Of codes that become floats none is wider than it has to be; MatMulNBits takes such at level 4 alone."""
    level = options.accuracy_level if options.op == "matmulnbits" else 4
    return StockProductsPass(nodes, _DTYPES[options.activations], level, options.op)


def _table_parameters(embeddings: Iterable[ir.Node], head: Linear | None) -> list[str]:
    """The parameters of the vocabulary tables; one twice where they are one."""
    names = [head.parameter] if head is not None else []
    return names + [str(value.name) for node in embeddings for value in node.inputs[:1] if value is not None]


def _fitted_rotation(exact: ExactWeights, options: ExportOptions, linear: Linear) -> Rotation | None:
    """The rotation of a layer of a plain directory; one that is stored exactly has none."""
    if options.rotate is None or linear.parameter in exact:
        return None
    return random_rotation(linear.K, options.rotate, seed=0)


def _hadamard_kind(options: ExportOptions) -> HadamardKind:
    """CUDA devices and hosts that take no custom operator have standard operators in place of SignedHadamard."""
    if options.target == "cuda" or options.op in STOCK:
        return "nodes"
    return "none" if options.fallback == "none" else "function"


def _table_form(options: ExportOptions) -> TableForm:
    bits, dtype, level = options.table_bits, _DTYPES[options.activations], options.accuracy_level
    if bits in _FLOAT_TABLES:
        return FloatTables(_FLOAT_TABLES[bits], dtype)
    if options.op in STOCK or (options.target == "cuda" and bits > CUDA_PLANES):
        return BlockTables(bits, dtype, level, check_ids=options.target == "cpu")
    return PlaneTables(bits, dtype, level, in_codes=options.stores_codes)


def _stored_tables(names: Iterable[str], parameters: Parameters, options: ExportOptions) -> dict[str, TableForm]:
    """The tables of a checkpoint that are taken as they are, by parameter."""
    dtype, level = _DTYPES[options.activations], options.accuracy_level
    forms = {name: stored_table_form(name, parameters, options) for name in names}
    return {
        name: PlaneTables(form, dtype, level, in_codes=options.stores_codes)
        for name, form in forms.items()
        if form is not None
    }


def _refuse_lost_window(graph: BuiltGraph) -> None:
    """Raise InputError where the attention operator that would have the window is not one that can have it."""
    if graph.window and any(node.op_type == "Attention" for node in graph.model.graph):
        raise InputError(
            f"config.json: sliding_window={graph.window} is not supported for heads of this size; only a window of "
            "heads whose size is a multiple of 8 is"
        )


def _has_states(model: ir.Model) -> bool:
    """Whether layers carry what no token can be taken back from."""
    return any(str(value.name).startswith(PAST_STATE) for value in model.graph.inputs)


def _refuse_states(graph: BuiltGraph, model_type: str, options: ExportOptions, *, together: bool) -> None:
    """Raise InputError for layers with states where tokens do not stand `together`, or on CUDA."""
    if not _has_states(graph.model):
        return
    if not together:
        raise InputError(
            f"a {model_type} of this configuration is not supported: layers that carry a state in place of keys and "
            "values need layers with full attention beside them, of heads whose size is a multiple of 8"
        )
    if LONG_ROPE_AFTER in graph.model.metadata_props:
        raise InputError(
            f"config.json: rope_parameters of type 'longrope' are not supported for a {model_type}: a sequence that "
            "grows beyond the first factors is read again, and its states cannot be taken back"
        )
    if options.target == "cuda":
        expected = f"cpu for a {model_type}, whose layers with states have not been tried on CUDA"
        raise OptionError("target", expected, options.target, "use {target} cpu")


def _refuse_kept_attention(model: ir.Model, model_type: str, options: ExportOptions) -> None:
    """Raise OptionError where a cache of another type would be read by nodes that compute in the activations' type."""
    if kept := layers_without_block(model):
        shown = ", ".join(map(str, kept[:_SHOWN_LAYERS])) + (", ..." if len(kept) > _SHOWN_LAYERS else "")
        expected = (
            f"model for a {model_type} of this configuration: no block stands for the attention of layers {shown} "
            f"({len(kept)} in all), and its nodes read a cache of the activations' type alone"
        )
        raise OptionError("kv_cache", expected, options.kv_cache, "leave {kv_cache} out")


def _remove_unused(model: ir.Model) -> None:
    RemoveUnusedNodesPass()(model)
    for value in [v for v in model.graph.inputs if v.name == "position_ids" and not v.uses()]:
        model.graph.inputs.remove(value)
    initializers = model.graph.initializers
    for name in [name for name, value in initializers.items() if not value.uses()]:
        del initializers[name]


def _refuse_many_inputs(nodes: Collection[PlaneNode]) -> None:
    limit = OP.cuda["max_k"]
    for linear in (node.linears[0] for node in nodes):
        if limit < linear.K:
            raise InputError(
                f"{linear.parameter}: the kernels of --target cuda take up to {limit} inputs, got {linear.K}; use "
                "--target cpu"
            )


def _add_fallback(model: ir.Model, formats: Mapping[ir.Value, PlaneFormat], options: ExportOptions) -> None:
    """Add the functions for weights of these planes, and move each node to the domain of its own."""
    imports = model.graph.opset_imports
    nodes = [node for node in model.graph if (node.domain, node.op_type) == (OP.domain, OP.name)]
    for function in fallback_functions(
        options.fallback, formats.values(), imports[""], options.accuracy_level, _calls(nodes)
    ):
        model.functions[function.identifier()] = function
    domains = function_domains(formats.values())
    for node in nodes:
        planes = node.inputs[1]
        assert planes is not None
        node.domain = domains[formats[planes]]
        imports.setdefault(node.domain, imports[OP.domain])
    model.graph.opset_imports.setdefault("com.microsoft", 1)


def _calls(nodes: Collection[ir.Node]) -> Calls:
    """What the operator's nodes have in common."""
    shapes = [node.inputs[0].shape if node.inputs[0] is not None else None for node in nodes]
    sizes = [(node.attributes["K"].as_int(), node.attributes["group_size"].as_int()) for node in nodes]
    return Calls(
        sequences=all(shape is not None and shape.rank() == len(("batch", "sequence", "K")) for shape in shapes),
        whole=all(K % G == 0 for K, G in sizes),
    )


def _tied(head: Linear, embedding: ir.Node, parameters: Parameters) -> bool:
    table = embedding.inputs[0]
    return head.weight is table or (table is not None and parameters.same(head.parameter, str(table.name)))
