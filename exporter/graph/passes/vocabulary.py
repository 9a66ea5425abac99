"""The two tables as long as the vocabulary, token embedding and head, in fewer bits.

1. 4 bits: blocks of a row share a float16 scale. The embedding is read by GatherBlockQuantized, the head is a
MatMulNBits.
2. 8 bits: two 4-bit halves, w = 16*s*(high - 8) + s*(low - 8), each as in case 1, summed. ONNX Runtime multiplies 8-bit
   weights with unrounded activations only by a scalar loop (60 ms against 1.1 ms for a half on SmolLM2's head,
   decision 0007), and rounding activations would break accuracy_level 0. It also runs where 8 bits are not known yet.
3. 16 and 32 bits: the table is stored in that float type and cast where the graph computes in the other.

Tied tables are stored once, whichever the case.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporter.graph.passes.linear import Linear
from exporter.graph.values import NodeBuilder, is_parameter, parameter, replace_value, static_shape

__all__ = ["BLOCK_SIZES", "Table", "VocabularyPass", "find_embedding", "find_head"]

BLOCK_SIZES = (64, 32, 16)  # the largest that divides the row is taken; MatMulNBits knows powers of two from 16
_DOMAIN = "com.microsoft"
_HALF_BITS = 4
_HALF_RANGE = 16  # of a 4-bit half
_ELEMENTWISE = ("Add", "Cast", "Div", "Mul", "Tanh", "Identity")


@dataclass(frozen=True)
class Table:
    """What to store for one vocabulary table [V, H].

    parameter: name of the full-precision parameter.
    bits: 4, 8, 16 or 32.
    block_size: columns that share a scale; 0 for float tables.
    codes: uint8 [V, H/block, block/2], high half first; or the one float table.
    scales: float16 [V, H/block, 1]; None for float tables.
    """

    parameter: str
    bits: int
    block_size: int
    codes: tuple[ir.Value, ...]
    scales: ir.Value | None


def find_embedding(model: ir.Model) -> ir.Node | None:
    """The Gather that looks tokens up, or None."""
    for node in model.graph:
        if node.op_type != "Gather" or node.inputs[1] is None:
            continue
        if node.inputs[1].name == "input_ids" and is_parameter(node.inputs[0]):
            return node
    return None


def find_head(model: ir.Model, linears: list[Linear]) -> Linear | None:
    """The layer whose product becomes the logits after elementwise steps at most, or None."""
    by_node = {linear.matmul: linear for linear in linears}
    value: ir.Value | None = next(v for v in model.graph.outputs if v.name == "logits")
    while value is not None and (node := value.producer()) is not None:
        if node in by_node:
            return by_node[node]
        if node.op_type not in _ELEMENTWISE:
            return None
        value = next((v for v in node.inputs if v is not None and v.producer() is not None), None)
    return None


class VocabularyPass(ir.passes.InPlacePass):
    """See the module's docstring. After the run, `tables` lists what is to be stored."""

    def __init__(
        self,
        embedding: ir.Node | None,
        head: Linear | None,
        *,
        tied: bool,
        bits: int,
        dtype: ir.DataType,
        accuracy_level: int,
    ) -> None:
        """`dtype` is the activations' type; `tied` says that both tables hold the same weights."""
        super().__init__()
        self._embedding, self._head, self._tied = embedding, head, tied
        self._bits, self._dtype, self._accuracy_level = bits, dtype, accuracy_level
        self.tables: list[Table] = []

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

    def _table(self, model: ir.Model, weight: ir.Value) -> Table:
        name = str(weight.name)
        rows, width = _table_shape(weight)
        block = next((size for size in BLOCK_SIZES if width % size == 0), 0)
        if self._bits >= 16 or block == 0:
            dtype = ir.DataType.FLOAT if self._bits == 32 else ir.DataType.FLOAT16
            value = parameter(model, f"{name}.table", [rows, width], dtype)
            table = Table(name, 32 if dtype == ir.DataType.FLOAT else 16, 0, (value,), None)
        else:
            halves = ("codes",) if self._bits == _HALF_BITS else ("high", "low")
            shape = [rows, width // block, block * _HALF_BITS // 8]
            codes = tuple(parameter(model, f"{name}.{half}", shape, ir.DataType.UINT8) for half in halves)
            scales = parameter(model, f"{name}.scales", [rows, width // block, 1], ir.DataType.FLOAT16)
            table = Table(name, self._bits, block, codes, scales)
        self.tables.append(table)
        return table

    def _replace_embedding(self, model: ir.Model, gather: ir.Node, table: Table) -> None:
        build = NodeBuilder(model, gather, f"{table.parameter}.lookup")
        ids = gather.inputs[1]
        if table.scales is None:
            result = build.cast(build("Gather", table.codes[0], ids), self._dtype)
        else:
            width = _table_shape(gather.inputs[0])[1]
            shape = build.constant("shape", np.array([0, 0, width], np.int64))
            parts = [
                build(
                    "GatherBlockQuantized", codes, ids, scales, domain=_DOMAIN,
                    bits=_HALF_BITS, block_size=table.block_size, gather_axis=0, quantize_axis=2,
                )
                for codes, scales in zip(table.codes, self._half_scales(build, table), strict=True)
            ]  # fmt: skip
            if self._scales_high_half(table):
                parts[0] = build("Mul", parts[0], build.constant("half_range", np.array(_HALF_RANGE, np.float32)))
            blocks = parts[0] if len(parts) == 1 else build("Add", *parts)
            result = build("Reshape", blocks, shape)
        replace_value(model, gather.outputs[0], result)

    def _replace_head(self, model: ir.Model, head: Linear, table: Table) -> None:
        build = NodeBuilder(model, head.matmul, f"{head.module}.head")
        x = head.matmul.inputs[0]
        if table.scales is None:
            weight = build("Transpose", build.cast(table.codes[0], self._dtype), perm=[1, 0])
            result = build("MatMul", x, weight)
        else:
            flat = build.constant("scales_shape", np.array([head.N, head.K // table.block_size], np.int64))
            sizes = {"K": head.K, "N": head.N, "bits": _HALF_BITS, "block_size": table.block_size}
            sizes["accuracy_level"] = self._accuracy_level
            scales = self._half_scales(build, table)
            rows = {value: build("Reshape", value, flat) for value in dict.fromkeys(scales)}
            inputs = [x] * len(table.codes)
            if self._scales_high_half(table):
                inputs[0] = build("Mul", x, build.constant("half_range", np.array(_HALF_RANGE, np.float32)))
            parts = [
                build("MatMulNBits", each, codes, rows[value], domain=_DOMAIN, **sizes)
                for each, codes, value in zip(inputs, table.codes, scales, strict=True)
            ]
            result = parts[0] if len(parts) == 1 else build("Add", *parts)
        replace_value(model, head.matmul.outputs[0], result)

    def _scales_high_half(self, table: Table) -> bool:
        """Whether the factor 16 of the high half is applied to activations and not to its scales.

        It is exact in either place. In float32 activations cannot overflow by it, and a runtime need not make a second
        table of scales when it loads the model.
        """
        return len(table.codes) == 2 and self._dtype == ir.DataType.FLOAT

    def _half_scales(self, build: NodeBuilder, table: Table) -> list[ir.Value]:
        """Scales of each half, [V, H/block, 1], in the activations' type."""
        assert table.scales is not None
        scales = build.cast(table.scales, self._dtype)
        if len(table.codes) == 1 or self._scales_high_half(table):
            return [scales] * len(table.codes)
        # As float32: ONNX Runtime 1.32 has no float16 product on a CPU and would fold this one only after MatMulNBits
        # has packed its weights, which at accuracy level 4 then multiplies without scales.
        factor = build.constant("half_range", np.array(_HALF_RANGE, np.float32))
        wide = build("Mul", build.cast(table.scales, ir.DataType.FLOAT), factor)
        return [build.cast(wide, self._dtype), scales]


def _table_shape(weight: ir.Value | None) -> tuple[int, int]:
    rows, width = static_shape(weight) or (0, 0)
    return rows, width
