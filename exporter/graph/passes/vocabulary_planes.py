"""Vocabulary tables as planes of even levels.

    table[v, h] = step[v, h // G] * (q[v, h] - zero)  (+ offset[v, h // G])        q = sum_p 2^p planes[p, v, h]

The head is a DualBinaryMatMul node, of any form that a checkpoint can store. The embedding reads the same planes and
scales, which therefore are of even levels, in layout plain or codes. The bytes of the rows that are asked for become
numbers by tables of 256 entries: in layout plain, from [P, batch, sequence, Hp/8], one for each plane, whose entry of a
byte are the eight values 2^p * bit; in layout codes, from [batch, sequence, Hp/G, G P/8], one, whose entry are the
numbers in a byte. Every runtime has these operators, and no more of the table is unpacked than these rows.
"""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from dualbinary import OP, InputError
from dualbinary.contract.layout import CODES
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat
from dualbinary.fitting.table_forms import table_format
from dualbinary.onnx_files.factor_tables import factor_tables
from exporter.graph.code_nodes import byte_numbers
from exporter.graph.export_graph import VocabularyTable
from exporter.graph.operator_node import operator_attributes, plane_parameters
from exporter.graph.values import NodeBuilder

__all__ = ["PlaneTables"]


class PlaneTables:
    """Tables as planes; see the module's docstring."""

    def __init__(
        self, form: int | PlaneFormat, dtype: ir.DataType, accuracy_level: int, *, in_codes: bool = False
    ) -> None:
        """`form` is that of a stored table, or the bits of one to make; `dtype` the activations' type.

        `in_codes` asks for layout codes where it can hold the table.
        """
        self._form, self._dtype, self._accuracy_level, self._in_codes = form, dtype, accuracy_level, in_codes

    def table(self, model: ir.Model, name: str, rows: int, width: int) -> VocabularyTable:
        """See TableForm."""
        stored = isinstance(self._form, PlaneFormat)
        form = self._form if isinstance(self._form, PlaneFormat) else table_format(self._form, width)
        form = replace(form.for_inputs(width), per_tensor=False)  # rows are looked up one by one
        if self._in_codes and form.in_codes:
            form = replace(form, layout=CODES)
        values = plane_parameters(model, name, form, rows, width)
        imports = model.graph.opset_imports
        imports[OP.domain] = max(imports.get(OP.domain, 1), form.version)
        return VocabularyTable(name, form.planes, rows, width, values, form.group_size, form, stored=stored)

    def look_up(self, build: NodeBuilder, table: VocabularyTable, ids: ir.Value | None) -> ir.Value:
        """See TableForm. In float32, so that the one rounding is that of the last product.

        Raises InputError for a table of free levels.
        """
        form = table.plane_format
        assert form is not None
        if not form.even:
            raise InputError(
                f"{table.parameter}: stored in planes of free levels, which a token embedding does not read; expected "
                "even levels, or --embedding-bits, which stores the table anew"
            )
        planes, scales = table.values
        groups, size = form.groups(table.width), form.group_size
        numbers, zeros = _numbers(build, planes, ids, form), None
        if form.zero == EACH_GROUP:
            zeros = _columns(build, numbers, "zeros", groups * size, groups * size + groups)
            numbers = _columns(build, numbers, "weights", 0, groups * size)
        grouped = build("Reshape", numbers, build.constant("grouped", np.array([0, 0, groups, size], np.int64)))
        last = build.constant("last", np.array([-1], np.int64))
        if zeros is not None:
            grouped = build("Sub", grouped, build("Unsqueeze", zeros, last))
        found = build("Gather", scales, ids, axis=1)
        steps, *offsets = (_scales(build, found, row, form, groups) for row in range(form.scale_rows))
        weights = build("Mul", grouped, build("Unsqueeze", steps, last))
        for offset in offsets:
            weights = build("Add", weights, build("Unsqueeze", offset, last))
        row = build("Reshape", weights, build.constant("row", np.array([0, 0, -1], np.int64)))
        if groups * size > table.width:
            row = _columns(build, row, "row", 0, table.width)
        row.dtype = ir.DataType.FLOAT
        return build.cast(row, self._dtype)

    def product(self, build: NodeBuilder, table: VocabularyTable, x: ir.Value | None) -> ir.Value:
        """See TableForm."""
        form = table.plane_format
        assert form is not None
        attributes = operator_attributes(form, table.rows, table.width, self._accuracy_level)
        return build(OP.name, x, *table.values, domain=OP.domain, **attributes)


def _numbers(build: NodeBuilder, planes: ir.Value, ids: ir.Value | None, form: PlaneFormat) -> ir.Value:
    """Numbers q - zero, float32 [batch, sequence, Hp + ..], of the rows.

    Where every group has a zero point, q, and behind it the zero points.
    """
    in_codes = form.layout == CODES
    rows = build("Gather", planes, ids, axis=0 if in_codes else 1)
    index = build("Cast", rows, to=int(ir.DataType.INT32))
    zero = 0 if form.zero == EACH_GROUP else float(form.zero)
    if in_codes:
        values = build.constant("numbers", (byte_numbers(form.planes) - zero).astype(np.float32))
        return build("Reshape", build("Gather", values, index), build.constant("row", np.array([0, 0, -1], np.int64)))
    bits = byte_numbers(1)
    total = None
    for p in range(form.planes):
        values = build.constant(f"plane_{p}", (2**p * bits - (zero if p == 0 else 0)).astype(np.float32))
        plane = build("Gather", index, build.constant(f"number_{p}", np.array(p, np.int64)))
        digits = build("Gather", values, plane)
        total = digits if total is None else build("Add", total, digits)
    assert total is not None
    return build("Reshape", total, build.constant("row", np.array([0, 0, -1], np.int64)))


def _columns(build: NodeBuilder, value: ir.Value, name: str, begin: int, end: int) -> ir.Value:
    """Columns of the last dimension of `value`."""
    numbers = {"begin": begin, "end": end, "axis": -1}
    bounds = [build.constant(f"{name}_{key}", np.array([number], np.int64)) for key, number in numbers.items()]
    return build("Slice", value, *bounds)


def _scales(build: NodeBuilder, scales: ir.Value, row: int, form: PlaneFormat, groups: int) -> ir.Value:
    """Row `row` of the scales [C, batch, sequence, ..] of the tokens, float32 [batch, sequence, groups]."""
    rows = build("Gather", scales, build.constant(f"scales_{row}", np.array(row, np.int64)))
    if form.scale_dtype != np.uint8:
        return build("Cast", rows, to=int(ir.DataType.FLOAT))
    head = OP.scale_codes["factor_bytes"]
    low, high = (build("Gather", rows, build.constant(f"byte_{n}", np.array([n], np.int64)), axis=-1) for n in (0, 1))
    codes = _columns(build, rows, "codes", head, head + groups)
    tables = {name: build.constant(name, array) for name, array in factor_tables().items()}
    index = build("Cast", high, to=int(ir.DataType.INT32))
    base, step = (build("Gather", table, index) for table in tables.values())
    factor = build("Add", base, build("Mul", step, build("Cast", low, to=int(ir.DataType.FLOAT))))
    zero = build.constant("code_zero", np.array(OP.scale_codes["zero"], np.float32))
    return build("Mul", build("Sub", build("Cast", codes, to=int(ir.DataType.FLOAT)), zero), factor)
