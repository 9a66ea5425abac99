"""The rotations of inputs that a checkpoint asks for, as SignedHadamard nodes.

Layers that read the same value through the same rotation share one node (q, k and v; gate and up), and all nodes with
the same signs share one initializer.
"""

from collections.abc import Callable, Collection, Iterable, Mapping

import onnx_ir as ir

from dualbinary.contract.rotation import Rotation
from exporter.graph.layers import Linear
from exporter.graph.parameters import Parameters
from exporter.graph.signed_hadamard import signed_hadamard
from exporter.graph.values import NodeBuilder, constant

__all__ = ["Rotations"]

Rotate = Callable[[Linear], Rotation | None]


class Rotations:
    """Rotations by parameter, and the nodes and initializers that they have so far."""

    def __init__(self, rotations: Mapping[str, Rotation]) -> None:
        self._rotations = rotations
        self._rotated: dict[tuple[ir.Value, Rotation], ir.Value] = {}
        self._signs: dict[bytes, ir.Value] = {}

    @classmethod
    def of(
        cls, linears: Collection[Linear], tables: Iterable[str], parameters: Parameters, fitted: Rotate
    ) -> "Rotations":
        """Those of layers and of vocabulary tables of a checkpoint; `fitted` gives those of layers that are fitted.

        Raises InputError as `Parameters.rotation` does.
        """
        names = [*(linear.parameter for linear in linears), *tables]
        found = {name: parameters.rotation(name) for name in names}
        found |= {linear.parameter: found[linear.parameter] or fitted(linear) for linear in linears}
        return cls({name: rotation for name, rotation in found.items() if rotation is not None})

    def get(self, parameter: str) -> Rotation | None:
        """The rotation of a parameter."""
        return self._rotations.get(parameter)

    @property
    def signs(self) -> tuple[ir.Value, ...]:
        """The initializers of signs."""
        return tuple(self._signs.values())

    def rotated(self, model: ir.Model, before: ir.Node, x: ir.Value, parameter: str) -> ir.Value:
        """`x` [.., K] as the stored weight of `parameter` reads it; a new node comes before the node `before`.

        To be asked in the order of the graph: what comes first has the node.
        """
        rotation = self.get(parameter)
        if rotation is None:
            return x
        if (x, rotation) not in self._rotated:
            build = NodeBuilder(model, before, f"{parameter.removesuffix('.weight')}.rotated")
            self._rotated[x, rotation] = signed_hadamard(build, x, self._signs_of(model, rotation), rotation.block_size)
        return self._rotated[x, rotation]

    def unrotated(self, model: ir.Model, build: NodeBuilder, rows: ir.Value, parameter: str) -> ir.Value:
        """The rows [.., K] of the table `parameter` for its stored `rows`."""
        rotation = self.get(parameter)
        if rotation is None:
            return rows
        return signed_hadamard(build, rows, self._signs_of(model, rotation), rotation.block_size, inverse=True)

    def _signs_of(self, model: ir.Model, rotation: Rotation) -> ir.Value:
        content = rotation.signs.tobytes()
        if content not in self._signs:
            self._signs[content] = constant(model, f"rotation_signs_{len(self._signs)}", rotation.signs)
        return self._signs[content]
