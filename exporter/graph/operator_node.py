"""What a DualBinaryMatMul node says about its weight, and the initializers that hold it."""

import onnx_ir as ir

from dualbinary import OP
from dualbinary.contract.scale_codes import dtype_name
from dualbinary.contract.weight import PlaneFormat
from exporter.graph.values import parameter

__all__ = ["operator_attributes", "plane_parameters"]

_SCALE_TYPES = {
    "float16": ir.DataType.FLOAT16,
    "float32": ir.DataType.FLOAT,
    "bfloat16": ir.DataType.BFLOAT16,
    "uint8": ir.DataType.UINT8,
}


def plane_parameters(
    model: ir.Model, name: str, plane_format: PlaneFormat, N: int, K: int
) -> tuple[ir.Value, ir.Value]:
    """Initializers for the planes and scales of a weight [N, K], which wait for their data."""
    planes_shape, scales_shape = plane_format.shapes(N, K)
    planes = parameter(model, f"{name}.planes", planes_shape, ir.DataType.UINT8)
    scales = parameter(model, f"{name}.scales", scales_shape, _SCALE_TYPES[dtype_name(plane_format.scale_dtype)])
    return planes, scales


def operator_attributes(plane_format: PlaneFormat, N: int, K: int, accuracy_level: int) -> dict[str, int]:
    """Attributes of the node."""
    attributes = {
        "K": K,
        "N": N,
        "group_size": plane_format.group_size,
        "layout": OP.layout_named(plane_format.layout).number,
        "accuracy_level": accuracy_level,
    }
    if plane_format.even:
        levels = plane_format.node_levels
        attributes |= {"levels": int(levels.even), "twice_zero": levels.twice_zero}
    return attributes
