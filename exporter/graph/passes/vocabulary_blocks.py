"""Vocabulary tables in quantization blocks, for operators of ONNX Runtime alone.

1. 2 and 4 bits: quantization blocks of a row share a scale of float16 precision. The embedding is read by
   GatherBlockQuantized, the head is a MatMulNBits.
2. 8 bits: two nibbles, w = 16*s*(high - 8) + s*(low - 8), each as in case 1, summed. ONNX Runtime multiplies 8-bit
   weights with unrounded activations only by a scalar loop (60 ms against 1.1 ms for one of the two on SmolLM2's head,
   decision 0007), and rounding activations would break accuracy_level 0. It also runs where 8 bits are not known yet.
3. Rows that no quantization block divides stay float16.

Scales are stored as float32 where activations are: OpenVINO 2026.4 reads GatherBlockQuantized with constant scales
alone, and takes none for constant that went through a Cast.

GatherBlockQuantized reads zeros for an id beyond the table and says nothing, so ids first go through a Gather from the
numbers 0..V-1, which fails and names the id. ONNX Runtime makes the numbers once, when it loads the model.
"""

import numpy as np
import onnx_ir as ir

from exporter.graph.export_graph import VocabularyTable
from exporter.graph.passes.vocabulary import FloatTables
from exporter.graph.values import NodeBuilder, parameter

__all__ = ["BlockTables"]

_BLOCK_SIZES = (64, 32, 16)  # the largest that divides the row is taken; MatMulNBits knows powers of two from 16
_DOMAIN = "com.microsoft"
_NIBBLE_BITS = 4
_NIBBLE_RANGE = 16


class BlockTables:
    """Tables in quantization blocks; see the module's docstring."""

    def __init__(self, bits: int, dtype: ir.DataType, accuracy_level: int, *, check_ids: bool) -> None:
        """`bits` is 2, 4 or 8, `dtype` the activations' type."""
        self._bits, self._dtype, self._accuracy_level = bits, dtype, accuracy_level
        self._code_bits = min(bits, _NIBBLE_BITS)
        self._check_ids = check_ids
        self._floats = FloatTables(ir.DataType.FLOAT16, dtype)

    def table(self, model: ir.Model, name: str, rows: int, width: int) -> VocabularyTable:
        """See TableForm."""
        block_size = next((size for size in _BLOCK_SIZES if width % size == 0), 0)
        if block_size == 0:
            return self._floats.table(model, name, rows, width)
        kinds = ("high", "low") if self._bits > _NIBBLE_BITS else ("codes",)
        shape = [rows, width // block_size, block_size * self._code_bits // 8]
        codes = [parameter(model, f"{name}.{kind}", shape, ir.DataType.UINT8) for kind in kinds]
        stored = ir.DataType.FLOAT if self._dtype == ir.DataType.FLOAT else ir.DataType.FLOAT16
        scales = parameter(model, f"{name}.scales", [*shape[:2], 1], stored)
        return VocabularyTable(name, self._bits, rows, width, (*codes, scales), block_size)

    def look_up(self, build: NodeBuilder, table: VocabularyTable, ids: ir.Value | None) -> ir.Value:
        """See TableForm."""
        if table.group_size == 0:
            return self._floats.look_up(build, table, ids)
        shape = build.constant("shape", np.array([0, 0, table.width], np.int64))
        if self._check_ids:
            ids = _checked(build, ids, table.rows)
        codes = table.values[:-1]
        parts = [
            build(
                "GatherBlockQuantized", each, ids, scales, domain=_DOMAIN,
                bits=self._code_bits, block_size=table.group_size, gather_axis=0, quantize_axis=2,
            )
            for each, scales in zip(codes, self._scales(build, table), strict=True)
        ]  # fmt: skip
        if self._shifts_activations(table):
            parts[0] = build("Mul", parts[0], _nibble_range(build))
        return build("Reshape", parts[0] if len(parts) == 1 else build("Add", *parts), shape)

    def product(self, build: NodeBuilder, table: VocabularyTable, x: ir.Value | None) -> ir.Value:
        """See TableForm."""
        if table.group_size == 0:
            return self._floats.product(build, table, x)
        flat = build.constant("scales_shape", np.array([table.rows, table.width // table.group_size], np.int64))
        sizes = {"K": table.width, "N": table.rows, "bits": self._code_bits, "block_size": table.group_size}
        sizes["accuracy_level"] = self._accuracy_level
        codes, scales = table.values[:-1], self._scales(build, table)
        rows = {value: build("Reshape", value, flat) for value in dict.fromkeys(scales)}
        inputs = [x] * len(codes)
        if self._shifts_activations(table):
            inputs[0] = build("Mul", x, _nibble_range(build))
        parts = [
            build("MatMulNBits", each, part, rows[value], domain=_DOMAIN, **sizes)
            for each, part, value in zip(inputs, codes, scales, strict=True)
        ]
        return parts[0] if len(parts) == 1 else build("Add", *parts)

    def _shifts_activations(self, table: VocabularyTable) -> bool:
        """Apply the factor 16 of high nibbles to activations, and not to the scales of high nibbles.

        It is exact in either place. In float32 activations cannot overflow by it, and a runtime need not make a second
        table of scales when it loads the model.
        """
        return table.bits > _NIBBLE_BITS and self._dtype == ir.DataType.FLOAT

    def _scales(self, build: NodeBuilder, table: VocabularyTable) -> list[ir.Value]:
        """Scales of the codes, or of high and of low nibbles, [V, H/block_size, 1] each, in the activations' type."""
        stored = table.values[-1]
        scales = build.cast(stored, self._dtype)
        if len(table.values) == 2 or self._shifts_activations(table):
            return [scales] * (len(table.values) - 1)
        # As float32: ONNX Runtime 1.32 has no float16 product on a CPU and would fold this one only after MatMulNBits
        # has packed its weights, which at accuracy level 4 then multiplies without scales.
        wide = build("Mul", build.cast(stored, ir.DataType.FLOAT), _nibble_range(build))
        return [build.cast(wide, self._dtype), scales]


def _checked(build: NodeBuilder, ids: ir.Value | None, rows: int) -> ir.Value:
    """`ids` as int32, after a check that all are below `rows`."""
    first, end, step = (
        build.constant(name, np.array(number, np.int32)) for name, number in (("first", 0), ("rows", rows), ("step", 1))
    )
    return build("Gather", build("Range", first, end, step), ids)


def _nibble_range(build: NodeBuilder) -> ir.Value:
    return build.constant("half_range", np.array(_NIBBLE_RANGE, np.float32))
