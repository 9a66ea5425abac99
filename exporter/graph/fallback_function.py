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

A model of several formats has a function for each: an overload, which nodes name. ONNX Runtime knows overloads from
1.27 on. Older ones take one of the functions for all nodes and say nothing, so each of several functions looks whether
it got a weight of its own format, and fails by a Gather beyond its only entry where it did not.
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
from dualbinary.onnx_files.factor_tables import factor_tables
from dualbinary.onnx_files.functions import BLOCKS, constant_nodes, replace_unpacking
from exporter.graph import even_body, free_body
from exporter.graph.stock_forms import stock_form

__all__ = ["fallback_functions", "overload_names"]


def overload_names(formats: Iterable[PlaneFormat]) -> dict[PlaneFormat, str]:
    """The overload of the function for each format; "" for all of them where one function does."""
    names = {form: _function_name(form) for form in formats}
    return names if len(set(names.values())) > 1 else dict.fromkeys(names, "")


def fallback_functions(
    kind: str, formats: Iterable[PlaneFormat], opset: int, accuracy_level: int = 0
) -> list[ir.Function]:
    """The functions for nodes of the given formats, one for each name in `overload_names`.

    `kind` is "ort4", "ort2" or "standard"; `opset` is the model's, at least 18; `accuracy_level` is that of the nodes.
    """
    by_name: dict[str, list[PlaneFormat]] = {}
    for form, name in overload_names(formats).items():
        by_name.setdefault(name, []).append(form)
    return [_function(kind, forms, opset, accuracy_level, name) for name, forms in by_name.items()]


def _function_name(form: PlaneFormat) -> str:
    """A name that formats share whose weights one function can read.

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
    return "_".join([*parts, *([BLOCKS] if blocks else [])])


def _function(kind: str, formats: list[PlaneFormat], opset: int, accuracy_level: int, overload: str) -> ir.Function:
    plane_format = formats[0]
    checks = _format_check(plane_format) if overload else ""
    text, tables = _scale_values(plane_format, "checked_scales" if overload else "scales")
    if plane_format.even and kind == "standard":
        body, more = even_body.standard_body(plane_format)
        text += body
    elif plane_format.even:
        body, more = even_body.nbits_body(plane_format, stock_form(plane_format, accuracy_level))
        text += body
    elif kind == "standard":
        text, more = text + free_body.standard_body(plane_format.planes, plane_format.offset), {}
    else:
        body, more = free_body.nbits_body(int(kind.removeprefix("ort")), formats)
        text += body
    version = max(each.version for each in formats)
    known = [a for a in OP.attributes if a.since <= version]
    attributes = ", ".join(a.name for a in known if a.default is None)
    defaults = ", ".join(f"{a.name}: int = {a.default}" for a in known if a.default is not None)
    weight = CODES if plane_format.layout == CODES else "planes"
    function = parser.parse_function(
        f'<domain: "{OP.domain}", opset_import: ["" : {opset}, "com.microsoft" : 1]>\n'
        f"{OP.name} <{attributes}, {defaults}> (X, {weight}, scales) => (Y) {{\n{checks}{text}}}"
    )
    nodes = [*constant_nodes(more | tables), *function.node]
    del function.node[:]
    function.node.extend(_used(nodes) if plane_format.layout == CODES else nodes)
    function.overload = overload
    replace_unpacking(function, plane_format)
    onnx.checker.check_function(function, _checker_context(opset))
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


def _format_check(form: PlaneFormat) -> str:
    """Nodes that give `checked_scales`: `scales`, or no value for a weight of another format than `form`."""
    shown, expected = "<start = 0, end = 1> (planes)", {"planes": form.planes, "rows": form.scale_rows}
    if form.layout == CODES:
        shown, expected["planes"] = "<start = 2, end = 3> (codes)", form.group_size * form.planes // 8
    lines = [
        "f_axis = Constant <value_ints: ints = [-1]> ()",
        f"f_planes = Shape {shown}",
        "f_rows = Shape <start = 0, end = 1> (scales)",
    ]
    if form.version > 1:
        levels = form.node_levels
        expected |= {"levels": int(levels.even), "twice_zero": levels.twice_zero}
    if form.even:
        expected["group_size"] = form.group_size
    for name in [name for name in expected if name not in ("planes", "rows")]:
        lines += [
            f"f_{name}_all = Constant <value_int: int = @{name}> ()",
            f"f_{name} = Reshape (f_{name}_all, f_axis)",
        ]
    return "\n".join(
        [
            *lines,
            f"f_seen = Concat <axis = 0> ({', '.join(f'f_{name}' for name in expected)})",
            f"f_own = Constant <value_ints: ints = {list(expected.values())}> ()",
            "f_less = Sub (f_seen, f_own)",
            "f_away = Abs (f_less)",
            "f_index = ReduceSum <keepdims = 0> (f_away)",
            "f_only = Constant <value_ints: ints = [1]> ()",
            "f_one = Gather <axis = 0> (f_only, f_index)",
            "f_given = Shape (scales)",
            "f_shape = Mul (f_given, f_one)",
            "checked_scales = Reshape (scales, f_shape)\n",
        ]
    )


def _scale_values(plane_format: PlaneFormat, scales: str) -> tuple[str, dict[str, np.ndarray]]:
    """Nodes that give `scale_values` of `scales`, and the tables that they read."""
    if plane_format.scale_dtype == np.uint8:
        return _CODE_VALUES.replace("@scales@", scales), factor_tables()
    return f"scale_values = Identity ({scales})\n", {}


# Scales [C, N, Kp/G] in float32 from bytes [C, N, 2 + Kp/G]; every operation is exact.
_CODE_VALUES = f"""
s_low = Constant <value_int = 0> ()
s_high = Constant <value_int = 1> ()
s_head = Constant <value_ints: ints = [{OP.scale_codes["factor_bytes"]}]> ()
s_end = Constant <value_ints: ints = [{np.iinfo(np.int64).max}]> ()
s_axis = Constant <value_ints: ints = [2]> ()
s_zero = Constant <value_float: float = {float(OP.scale_codes["zero"])}> ()
s_low_bytes = Gather <axis = 2> (@scales@, s_low)
s_low_floats = Cast <to = 1> (s_low_bytes)
s_high_bytes = Gather <axis = 2> (@scales@, s_high)
s_index = Cast <to = 6> (s_high_bytes)
s_bases = Gather <axis = 0> (factor_base, s_index)
s_steps = Gather <axis = 0> (factor_step, s_index)
s_added = Mul (s_steps, s_low_floats)
s_factors = Add (s_bases, s_added)
s_columns = Unsqueeze (s_factors, s_axis)
s_codes = Slice (@scales@, s_head, s_end, s_axis)
s_code_floats = Cast <to = 1> (s_codes)
s_centred = Sub (s_code_floats, s_zero)
scale_values = Mul (s_centred, s_columns)
"""


def _checker_context(opset: int) -> onnx.checker.C.CheckerContext:
    context = onnx.checker.C.CheckerContext()
    context.ir_version = onnx.IR_VERSION
    context.opset_imports = {"": opset, "com.microsoft": 1, OP.domain: OP.version}
    return context
