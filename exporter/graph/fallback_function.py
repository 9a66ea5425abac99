"""The function inside the model that runs DualBinaryMatMul where no library can be registered.

With the library registered ONNX Runtime ignores it. Bodies, by what they need of the runtime:

- ort4, ort2: MatMulNBits nodes, whose weights the runtime makes of the planes when it loads the model. Free levels take
  one for each plane (free_body.py), of 4 bits on every ONNX Runtime with MatMulNBits, of 2 where those are known, and
  then at accuracy level 4 alone: at level 0 ONNX Runtime has no kernel for two bits and unpacks the weight at every
  call. Even levels take one of the weight's own width, whichever of the two is asked for (even_body.py); in layout
  codes the stored bytes are what it reads.
- standard: ONNX operators alone, for runtimes without MatMulNBits. ONNX Runtime folds it to a float weight.

Scales of 8 bits become float32 first: a table of 256 entries, by the factor's high byte, gives the factor at low byte 0
and the step per unit of the low byte, for float16 is linear in its low byte.

Blocked layouts are unpacked first (dualbinary/onnx_files/unpack_function.py).

A model of several formats has a function for each, in a domain of its own, in which its nodes are: ONNX Runtime before
1.27 takes one function for all nodes of a domain and name, whatever overload they ask for.
"""

from collections.abc import Iterable

import numpy as np
import onnx
import onnx_ir as ir
from onnx import parser

from dualbinary import OP
from dualbinary.contract.layout import CODES
from dualbinary.contract.scale_codes import dtype_name
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat
from dualbinary.errors import InputError
from dualbinary.onnx_files.factor_tables import factor_tables
from dualbinary.onnx_files.functions import attribute_list, check_function, constant_nodes, replace_unpacking
from exporter.graph import even_body, free_body
from exporter.graph.wide_product import Calls

__all__ = ["fallback_functions", "function_domains"]

_ANY_CALLS = Calls()


def function_domains(formats: Iterable[PlaneFormat]) -> dict[PlaneFormat, str]:
    """The domain of the function for each format, in the order of their first occurrence.

    Raises InputError where there are not as many.
    """
    keys = {form: _function_key(form) for form in formats}
    distinct = list(dict.fromkeys(keys.values()))
    if len(distinct) > len(OP.domain_names):
        raise InputError(
            f"the weights need {len(distinct)} fallback functions, and a model has room for {len(OP.domain_names)}; "
            "use fewer formats, or --fallback none"
        )
    domains = dict(zip(distinct, OP.domain_names, strict=False))
    return {form: domains[key] for form, key in keys.items()}


def fallback_functions(
    kind: str, formats: Iterable[PlaneFormat], opset: int, accuracy_level: int = 0, calls: Calls = _ANY_CALLS
) -> list[ir.Function]:
    """The functions for nodes of the given formats, one for each domain in `function_domains`.

    `kind` is "ort4", "ort2" or "standard"; `opset` is the model's, at least 18; `accuracy_level` is that of the nodes,
    and `calls` what these have in common.
    """
    by_domain: dict[str, list[PlaneFormat]] = {}
    for form, domain in function_domains(formats).items():
        by_domain.setdefault(domain, []).append(form)
    return [_function(kind, forms, opset, accuracy_level, domain, calls) for domain, forms in by_domain.items()]


def _function_key(form: PlaneFormat) -> str:
    """What formats share whose weights one function can read.

    Those of free levels may differ in group size, and those of layout plain in the type of float scales.
    """
    parts = [f"{'even' if form.even else 'free'}{form.planes}"]
    if form.offset:
        parts.append("offset")
    if form.even:
        parts += ["zeros" if form.zero == EACH_GROUP else f"zero{form.zero:g}", f"g{form.group_size}"]
    dtype, blocks = dtype_name(form.scale_dtype), OP.layout_named(form.layout).blocks
    if blocks or dtype == "uint8":
        parts.append(dtype)
    if form.per_tensor:
        parts.append("tensor")
    if form.layout == CODES:
        parts.append(CODES)
    return "_".join([*parts, *(["blocks"] if blocks else [])])


def _function(
    kind: str, formats: list[PlaneFormat], opset: int, accuracy_level: int, domain: str, calls: Calls
) -> ir.Function:
    plane_format = formats[0]
    text, tables = _scale_values(plane_format)
    if plane_format.even and kind == "standard":
        body, more = even_body.standard_body(plane_format)
        text += body
    elif plane_format.even:
        body, more = even_body.nbits_body(plane_format, accuracy_level, calls)
        text += body
    elif kind == "standard":
        text, more = text + free_body.standard_body(plane_format.planes, plane_format.offset), {}
    else:
        body, more = free_body.nbits_body(int(kind.removeprefix("ort")), formats, accuracy_level, calls)
        text += body
    version = max(each.version for each in formats)
    weight = CODES if plane_format.layout == CODES else "planes"
    function = parser.parse_function(
        f'<domain: "{domain}", opset_import: ["" : {opset}, "com.microsoft" : 1]>\n'
        f"{OP.name} <{attribute_list(OP, version)}> (X, {weight}, scales) => (Y) {{\n{text}}}"
    )
    nodes = [*constant_nodes(more | tables), *function.node]
    del function.node[:]
    function.node.extend(_used(nodes) if plane_format.layout == CODES else nodes)
    replace_unpacking(function, plane_format)
    check_function(function)
    return ir.from_proto(function)


def _used(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes that `Y` needs, without Identity ones: a runtime has to fold all that every node of the model has."""
    renamed: dict[str, str] = {}
    for node in nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if node.op_type == "Identity" and node.output[0] != "Y":
            renamed[node.output[0]] = node.input[0]
    needed, kept = {"Y"}, []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]


def _scale_values(plane_format: PlaneFormat) -> tuple[str, dict[str, np.ndarray]]:
    """Nodes that give `scale_values` of `scales`, and the tables that they read."""
    if plane_format.scale_dtype == np.uint8:
        return _CODE_VALUES, factor_tables()
    return "scale_values = Identity (scales)\n", {}


# Scales [C, N, Kp/G] in float32 from bytes [C, N, 2 + Kp/G]; every operation is exact.
_CODE_VALUES = f"""
s_low = Constant <value_int = 0> ()
s_high = Constant <value_int = 1> ()
s_head = Constant <value_ints: ints = [{OP.scale_codes["factor_bytes"]}]> ()
s_end = Constant <value_ints: ints = [{np.iinfo(np.int64).max}]> ()
s_axis = Constant <value_ints: ints = [2]> ()
s_zero = Constant <value = float {{{float(OP.scale_codes["zero"])}}}> ()
s_low_bytes = Gather <axis = 2> (scales, s_low)
s_low_floats = Cast <to = 1> (s_low_bytes)
s_high_bytes = Gather <axis = 2> (scales, s_high)
s_index = Cast <to = 6> (s_high_bytes)
s_bases = Gather <axis = 0> (factor_base, s_index)
s_steps = Gather <axis = 0> (factor_step, s_index)
s_added = Mul (s_steps, s_low_floats)
s_factors = Add (s_bases, s_added)
s_columns = Unsqueeze (s_factors, s_axis)
s_codes = Slice (scales, s_head, s_end, s_axis)
s_code_floats = Cast <to = 1> (s_codes)
s_centred = Sub (s_code_floats, s_zero)
scale_values = Mul (s_centred, s_columns)
"""
