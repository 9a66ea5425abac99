"""Results of blockwise calibration: one file for each block in the work directory, read block by block."""

from typing import Any

from torch import Tensor

from calib.layers import QuantLinear, quant_linears
from calib.models.source import SourceModel
from calib.state import WorkDirectory

__all__ = ["BlockwiseResults", "block_file"]


def block_file(index: int) -> str:
    """The name under which the work directory stores block `index`."""
    return f"block-{index:03d}"


class BlockwiseResults:
    """Planes, scales and reports of all blocks, once they are calibrated."""

    def __init__(self, source: SourceModel, work: WorkDirectory) -> None:
        self._work, self._count = work, len(source.blocks)
        self._block_of = {
            layer.name: index for index, (_, block) in enumerate(source.blocks) for layer in quant_linears(block)
        }
        self._read: tuple[int, dict[str, Tensor]] = -1, {}

    def reports(self) -> list[dict[str, Any]]:
        """For each block: name, seconds, errors, and figures of its layers."""
        return [self._work.read_tensors(block_file(index))[1] for index in range(self._count)]

    def restore(self, layer: QuantLinear) -> None:
        """Give `layer` the planes and scales that blockwise calibration chose."""
        index = self._block_of[layer.name]
        if index != self._read[0]:
            self._read = index, self._work.read_tensors(block_file(index))[0]
        layer.set_quantized(self._read[1][f"{layer.name}.planes"], self._read[1][f"{layer.name}.scales"])
