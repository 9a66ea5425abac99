"""The tables as long as the vocabulary, embeddings of tokens and the head, in fewer bits.

1. 2, 3, 4 and 8 bits, and whatever a checkpoint stores: planes (`vocabulary_planes.py`). The head is a DualBinaryMatMul
   node, and an embedding takes the rows of its tokens out of the same planes.
2. The same bits for operators of ONNX Runtime alone: quantization blocks (`vocabulary_blocks.py`).
3. 16 and 32 bits: the table is stored in that float type and cast where the graph computes in the other.

Tied tables are stored once, whichever the case.

A Gather of ONNX Runtime's CPU provider fails for an id beyond the table and names it, but takes -1 for the last row. So
negative ids are moved beyond the table first. Not on CUDA, where Gather does not check at all.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir

from exporter.graph.export_graph import VocabularyTable
from exporter.graph.layers import Linear
from exporter.graph.values import NodeBuilder, parameter, replace_value, static_shape

__all__ = ["FloatTables", "TableForm", "VocabularyPass"]


class TableForm(Protocol):
    """A way to store tables [V, H], and the nodes that read them."""

    def table(self, model: ir.Model, name: str, rows: int, width: int) -> VocabularyTable:
        """The table of the parameter `name`, with initializers that wait for their data."""
        ...

    def look_up(self, build: NodeBuilder, table: VocabularyTable, ids: ir.Value | None) -> ir.Value:
        """The rows [batch, sequence, H] of `ids`."""
        ...

    def product(self, build: NodeBuilder, table: VocabularyTable, x: ir.Value | None) -> ir.Value:
        """The products [.., V] of `x` [.., H] with all rows."""
        ...


class FloatTables:
    """Tables of float16 or float32."""

    def __init__(self, stored: ir.DataType, dtype: ir.DataType) -> None:
        """`stored` is the tables' type, `dtype` that of the activations."""
        self._stored, self._dtype = stored, dtype

    def table(self, model: ir.Model, name: str, rows: int, width: int) -> VocabularyTable:
        """See TableForm."""
        value = parameter(model, f"{name}.table", [rows, width], self._stored)
        return VocabularyTable(name, int(8 * self._stored.itemsize), rows, width, (value,))

    def look_up(self, build: NodeBuilder, table: VocabularyTable, ids: ir.Value | None) -> ir.Value:
        """See TableForm."""
        return build.cast(build("Gather", table.values[0], ids), self._dtype)

    def product(self, build: NodeBuilder, table: VocabularyTable, x: ir.Value | None) -> ir.Value:
        """See TableForm."""
        weight = build("Transpose", build.cast(table.values[0], self._dtype), perm=[1, 0])
        return build("MatMul", x, weight)


class VocabularyPass(ir.passes.InPlacePass):
    """See the module's docstring. After the run, `tables` lists the tables to store, `of_head` is that of the head."""

    def __init__(
        self,
        embeddings: Sequence[ir.Node],
        head: Linear | None,
        form: TableForm,
        *,
        tied: ir.Node | None,
        check_ids: bool,
        stored: Mapping[str, TableForm] | None = None,
    ) -> None:
        """`tied` is the embedding whose table the head has; `stored` has forms of single tables, by parameter."""
        super().__init__()
        self._embeddings, self._head, self._form, self._stored = embeddings, head, form, stored or {}
        self._tied, self._check_ids = tied, check_ids
        self.tables: list[VocabularyTable] = []
        self.of_head: VocabularyTable | None = None

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        of_head = None
        for embedding in self._embeddings:
            assert embedding.inputs[0] is not None
            table = self._table(model, embedding.inputs[0])
            self._replace_embedding(model, embedding, table)
            of_head = table if embedding is self._tied else of_head
        if self._head is not None:
            table = of_head or self._table(model, self._head.weight)
            self.of_head = table
            build = NodeBuilder(model, self._head.matmul, f"{self._head.module}.head")
            result = self._form_of(table.parameter).product(build, table, self._head.matmul.inputs[0])
            replace_value(model, self._head.matmul.outputs[0], result)
        return ir.passes.PassResult(model, modified=bool(self.tables))

    def _table(self, model: ir.Model, weight: ir.Value) -> VocabularyTable:
        rows, width = static_shape(weight) or (0, 0)
        name = str(weight.name)
        self.tables.append(self._form_of(name).table(model, name, rows, width))
        return self.tables[-1]

    def _form_of(self, parameter: str) -> TableForm:
        return self._stored.get(parameter, self._form)

    def _replace_embedding(self, model: ir.Model, gather: ir.Node, table: VocabularyTable) -> None:
        build = NodeBuilder(model, gather, f"{table.parameter}.lookup")
        ids = gather.inputs[1]
        if self._check_ids:
            rows, _ = static_shape(gather.inputs[0]) or (0, 0)
            zero, beyond = (build.constant(f"id_{number}", np.array(number, np.int64)) for number in (0, rows))
            ids = build("Where", build("Less", ids, zero), beyond, ids)
        replace_value(model, gather.outputs[0], self._form_of(table.parameter).look_up(build, table, ids))
