"""The graph that an export stores, and the initializers in it that wait for quantized weights."""

from dataclasses import dataclass

import onnx_ir as ir

from dualbinary.contract.weight import PlaneFormat
from exporter.graph.layers import Linear

__all__ = ["ExportGraph", "PlaneNode", "VocabularyTable"]


@dataclass(frozen=True)
class PlaneNode:
    """A DualBinaryMatMul node and the layers whose rows its planes and scales hold, in order."""

    linears: tuple[Linear, ...]
    plane_format: PlaneFormat
    planes: ir.Value
    scales: ir.Value


@dataclass(frozen=True)
class VocabularyTable:
    """A token embedding or a head [V, H].

    Attributes:
        parameter: name of the full-precision parameter.
        bits: 4, 8, 16 or 32.
        block_size: columns that share a scale; 0 for float tables.
        codes: uint8 [V, H/block_size, block_size/2], high nibbles first; or the one float table.
        scales: float16 [V, H/block_size, 1]; None for float tables.
    """

    parameter: str
    bits: int
    block_size: int
    codes: tuple[ir.Value, ...]
    scales: ir.Value | None

    @property
    def values(self) -> tuple[ir.Value, ...]:
        """Codes, then scales."""
        return self.codes if self.scales is None else (*self.codes, self.scales)


@dataclass(frozen=True)
class ExportGraph:
    """The result of all passes.

    Attributes:
        model: the graph, whose parameters have no data.
        nodes: the DualBinaryMatMul nodes.
        tables: token embedding and head; one where they are tied.
        joined_biases: name of a bias that a pass made to the names of the parameters it joins.
        positions: the number that tables of the rotation have; None for a model without such tables.
        exact: parameters that the format of their layer holds exactly as they are stored.
    """

    model: ir.Model
    nodes: tuple[PlaneNode, ...]
    tables: tuple[VocabularyTable, ...]
    joined_biases: dict[str, tuple[str, ...]]
    positions: int | None
    exact: frozenset[str] = frozenset()
