"""A token embedding in planes of an exported file: its form, which no node's attributes tell.

Nodes named <parameter>.lookup read the rows; their constants say what rows are (exporter/graph/passes/
vocabulary_planes.py): `grouped` the groups and G, `numbers` of layout codes or `plane_0` of layout plain the number of
each byte less the zero point, `zeros_begin` that every group has one of its own.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from dualbinary import InputError
from dualbinary.contract.layout import CODES
from dualbinary.contract.levels import GROUP_ZEROS, Levels
from dualbinary.contract.schema import OP
from dualbinary.contract.weight import PlaneWeight
from dualbinary.onnx_files.relayout.model import array_of
from importer.convert.own_model import OwnWeight

__all__ = ["embedding_weight"]


def embedding_weight(
    initializers: Mapping[str, onnx.TensorProto], parameter: str, N: int, K: int, directory: Path
) -> OwnWeight | None:
    """The table [N, K] of `parameter` that a lookup alone reads; None where the file has no such planes.

    Raises InputError where the lookup is not that of an export of this release.
    """
    planes, scales = (initializers.get(f"{parameter}.{part}") for part in ("planes", "scales"))
    if planes is None or scales is None:
        return None

    def constant(name: str) -> np.ndarray | None:
        tensor = initializers.get(f"{parameter}.lookup.{name}")
        return None if tensor is None else array_of(tensor, directory)

    grouped, in_codes, first = constant("grouped"), constant("numbers"), constant("plane_0")
    numbers = in_codes if in_codes is not None else first
    if grouped is None or numbers is None or grouped.shape != (4,):
        raise InputError(
            f"{parameter}: the file does not say in which form its planes are: no constants of {parameter}.lookup; "
            "give the checkpoint, or export it again"
        )
    zeros = constant("zeros_begin") is not None
    levels = Levels(even=True, twice_zero=GROUP_ZEROS if zeros else round(-2 * float(numbers.flat[0])))
    layout = CODES if in_codes is not None else OP.layouts[0].name
    group_size = int(grouped[3])

    def read() -> PlaneWeight:
        arrays = array_of(planes, directory), array_of(scales, directory)
        weight = PlaneWeight.of(*arrays, K, group_size, layout, levels)
        if weight.N != N:
            raise InputError(f"{parameter}: expected planes of {N} rows by config.json, got {weight.N}")
        return weight.to_layout(OP.layouts[0].name)

    return OwnWeight(N, K, read)
