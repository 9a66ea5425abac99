"""The two tables as long as the vocabulary, token embedding and head, in fewer bits.

1. 4 bits: quantization blocks of a row share a float16 scale. The embedding is read by GatherBlockQuantized, the head
   is a MatMulNBits.
2. 8 bits: two nibbles, w = 16*s*(high - 8) + s*(low - 8), each as in case 1, summed. ONNX Runtime multiplies 8-bit
   weights with unrounded activations only by a scalar loop (60 ms against 1.1 ms for one of the two on SmolLM2's head,
   decision 0007), and rounding activations would break accuracy_level 0. It also runs where 8 bits are not known yet.
3. 16 and 32 bits: the table is stored in that float type and cast where the graph computes in the other.

Tied tables are stored once, whichever the case.

GatherBlockQuantized reads zeros for an id beyond the table and says nothing, so ids first go through a Gather from the
numbers 0..V-1, which fails and names the id. ONNX Runtime makes the numbers once, when it loads the model. Not on CUDA,
where Gather does not check either.
"""

import numpy as np
import onnx_ir as ir

from exporter.graph.export_graph import VocabularyTable
from exporter.graph.layers import Linear
from exporter.graph.values import NodeBuilder, parameter, replace_value, static_shape

__all__ = ["VocabularyPass"]

_BLOCK_SIZES = (64, 32, 16)  # the largest that divides the row is taken; MatMulNBits knows powers of two from 16
_DOMAIN = "com.microsoft"
_NIBBLE_BITS = 4
_NIBBLE_RANGE = 16


class VocabularyPass(ir.passes.InPlacePass):
    """See the module's docstring. After the run, `tables` lists the tables to store."""

    def __init__(
        self,
        embedding: ir.Node | None,
        head: Linear | None,
        *,
        tied: bool,
        bits: int,
        dtype: ir.DataType,
        accuracy_level: int,
        check_ids: bool,
    ) -> None:
        """`dtype` is the activations' type; `tied` says that both tables hold the same weights."""
        super().__init__()
        self._embedding, self._head, self._tied = embedding, head, tied
        self._bits, self._dtype, self._accuracy_level = bits, dtype, accuracy_level
        self._check_ids = check_ids
        self.tables: list[VocabularyTable] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        table = None
        if self._embedding is not None and self._embedding.inputs[0] is not None:
            table = self._table(model, self._embedding.inputs[0])
            self._replace_embedding(model, self._embedding, table)
        if self._head is not None:
            if table is None or not self._tied:
                table = self._table(model, self._head.weight)
            self._replace_head(model, self._head, table)
        return ir.passes.PassResult(model, modified=bool(self.tables))

    def _table(self, model: ir.Model, weight: ir.Value) -> VocabularyTable:
        name = str(weight.name)
        rows, width = _table_shape(weight)
        block_size = next((size for size in _BLOCK_SIZES if width % size == 0), 0)
        if self._bits >= 16 or block_size == 0:
            dtype = ir.DataType.FLOAT if self._bits == 32 else ir.DataType.FLOAT16
            value = parameter(model, f"{name}.table", [rows, width], dtype)
            table = VocabularyTable(name, 32 if dtype == ir.DataType.FLOAT else 16, 0, (value,), None)
        else:
            kinds = ("codes",) if self._bits == _NIBBLE_BITS else ("high", "low")
            shape = [rows, width // block_size, block_size * _NIBBLE_BITS // 8]
            codes = tuple(parameter(model, f"{name}.{kind}", shape, ir.DataType.UINT8) for kind in kinds)
            scales = parameter(model, f"{name}.scales", [*shape[:2], 1], ir.DataType.FLOAT16)
            table = VocabularyTable(name, self._bits, block_size, codes, scales)
        self.tables.append(table)
        return table

    def _replace_embedding(self, model: ir.Model, gather: ir.Node, table: VocabularyTable) -> None:
        build = NodeBuilder(model, gather, f"{table.parameter}.lookup")
        rows, width = _table_shape(gather.inputs[0])
        ids = gather.inputs[1]
        if self._check_ids:
            zero, beyond = (build.constant(f"id_{number}", np.array(number, np.int64)) for number in (0, rows))
            ids = build("Where", build("Less", ids, zero), beyond, ids)  # Gather would take -1 for the last row
        if table.scales is None:
            result = build.cast(build("Gather", table.codes[0], ids), self._dtype)
        else:
            shape = build.constant("shape", np.array([0, 0, width], np.int64))
            if self._check_ids:
                ids = self._checked(build, ids, rows)
            parts = [
                build(
                    "GatherBlockQuantized", codes, ids, scales, domain=_DOMAIN,
                    bits=_NIBBLE_BITS, block_size=table.block_size, gather_axis=0, quantize_axis=2,
                )
                for codes, scales in zip(table.codes, self._nibble_scales(build, table), strict=True)
            ]  # fmt: skip
            if self._shifts_activations(table):
                parts[0] = build("Mul", parts[0], _nibble_range(build))
            blocks = parts[0] if len(parts) == 1 else build("Add", *parts)
            result = build("Reshape", blocks, shape)
        replace_value(model, gather.outputs[0], result)

    def _checked(self, build: NodeBuilder, ids: ir.Value | None, rows: int) -> ir.Value:
        """`ids` as int32, after a check that all are below `rows`."""
        first, end, step = (
            build.constant(name, np.array(number, np.int32))
            for name, number in (("first", 0), ("rows", rows), ("step", 1))
        )
        return build("Gather", build("Range", first, end, step), ids)

    def _replace_head(self, model: ir.Model, head: Linear, table: VocabularyTable) -> None:
        build = NodeBuilder(model, head.matmul, f"{head.module}.head")
        x = head.matmul.inputs[0]
        if table.scales is None:
            weight = build("Transpose", build.cast(table.codes[0], self._dtype), perm=[1, 0])
            result = build("MatMul", x, weight)
        else:
            flat = build.constant("scales_shape", np.array([head.N, head.K // table.block_size], np.int64))
            sizes = {"K": head.K, "N": head.N, "bits": _NIBBLE_BITS, "block_size": table.block_size}
            sizes["accuracy_level"] = self._accuracy_level
            scales = self._nibble_scales(build, table)
            rows = {value: build("Reshape", value, flat) for value in dict.fromkeys(scales)}
            inputs = [x] * len(table.codes)
            if self._shifts_activations(table):
                inputs[0] = build("Mul", x, _nibble_range(build))
            parts = [
                build("MatMulNBits", each, codes, rows[value], domain=_DOMAIN, **sizes)
                for each, codes, value in zip(inputs, table.codes, scales, strict=True)
            ]
            result = parts[0] if len(parts) == 1 else build("Add", *parts)
        replace_value(model, head.matmul.outputs[0], result)

    def _shifts_activations(self, table: VocabularyTable) -> bool:
        """Apply the factor 16 of high nibbles to activations, and not to the scales of high nibbles.

        It is exact in either place. In float32 activations cannot overflow by it, and a runtime need not make a second
        table of scales when it loads the model.
        """
        return len(table.codes) == 2 and self._dtype == ir.DataType.FLOAT

    def _nibble_scales(self, build: NodeBuilder, table: VocabularyTable) -> list[ir.Value]:
        """Scales of high and of low nibbles, [V, H/block_size, 1] each, in the activations' type."""
        assert table.scales is not None
        scales = build.cast(table.scales, self._dtype)
        if len(table.codes) == 1 or self._shifts_activations(table):
            return [scales] * len(table.codes)
        # As float32: ONNX Runtime 1.32 has no float16 product on a CPU and would fold this one only after MatMulNBits
        # has packed its weights, which at accuracy level 4 then multiplies without scales.
        wide = build("Mul", build.cast(table.scales, ir.DataType.FLOAT), _nibble_range(build))
        return [build.cast(wide, self._dtype), scales]


def _nibble_range(build: NodeBuilder) -> ir.Value:
    return build.constant("half_range", np.array(_NIBBLE_RANGE, np.float32))


def _table_shape(weight: ir.Value | None) -> tuple[int, int]:
    rows, width = static_shape(weight) or (0, 0)
    return rows, width
