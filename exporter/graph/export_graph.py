"""The graph that an export stores, and the initializers in it that wait for quantized weights."""

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from dualbinary.contract.rotation import Rotation
from dualbinary.contract.weight import PlaneFormat
from exporter.graph.layers import Linear
from exporter.graph.plane_formats import ExactWeights
from exporter.graph.stock_forms import StockForm

__all__ = ["ExportGraph", "PlaneNode", "StockNode", "VocabularyTable"]


@dataclass(frozen=True)
class StockNode:
    """The nodes of ONNX Runtime alone that stand for a DualBinaryMatMul node.

    Attributes:
        form: what they are.
        values: by part, codes, scales and zero points where they are not the default; then offsets [groups, N].
    """

    form: StockForm
    values: tuple[ir.Value, ...]


@dataclass(frozen=True, eq=False)
class PlaneNode:
    """A DualBinaryMatMul node and the layers whose rows its planes and scales hold, in order.

    With `stock` other nodes have taken its place, and neither planes nor scales are in the graph. Column k of the
    planes multiplies input `input_order[k]` of the layers, where that is not their own order; with `rotation`, of
    their rotated inputs.
    """

    linears: tuple[Linear, ...]
    plane_format: PlaneFormat
    planes: ir.Value
    scales: ir.Value
    stock: StockNode | None = None
    input_order: np.ndarray | None = None
    rotation: Rotation | None = None

    @property
    def values(self) -> tuple[ir.Value, ...]:
        """What the file holds of the weight."""
        return (self.planes, self.scales) if self.stock is None else self.stock.values


@dataclass(frozen=True)
class VocabularyTable:
    """An embedding of tokens or a head [V, H].

    Attributes:
        parameter: name of the full-precision parameter.
        bits: of a weight without scales: 1 to 8, 16 or 32.
        rows: V.
        width: H.
        values: planes and scales; or codes of quantization blocks, high nibbles before low ones, and scales; or the
            one float table.
        group_size: weights that share a scale; 0 for float tables.
        plane_format: that of planes; None for other tables.
        stored: the planes are those of a checkpoint, as they are.
        rotation: of the rows, which stand for those of the parameter after it; None where they are the parameter's.
    """

    parameter: str
    bits: int
    rows: int
    width: int
    values: tuple[ir.Value, ...]
    group_size: int = 0
    plane_format: PlaneFormat | None = None
    stored: bool = False
    rotation: Rotation | None = None


@dataclass(frozen=True)
class ExportGraph:
    """The result of all passes.

    Attributes:
        model: the graph, whose parameters have no data.
        nodes: the DualBinaryMatMul nodes.
        tables: embeddings of tokens and head.
        head: that of the head, which is one of an embedding where they are tied; None where no table is the head.
        joined_biases: name of a bias that a pass made to the names of the parameters it joins.
        positions: the number that tables of the rotation have; None for a model without such tables.
        exact: weights that the format of their layer holds exactly as they are stored.
        signs: the signs of rotations, each once.
    """

    model: ir.Model
    nodes: tuple[PlaneNode, ...]
    tables: tuple[VocabularyTable, ...]
    head: VocabularyTable | None
    joined_biases: dict[str, tuple[str, ...]]
    positions: int | None
    exact: ExactWeights = field(default_factory=ExactWeights)
    signs: tuple[ir.Value, ...] = ()
