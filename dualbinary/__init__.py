"""The dual-binary weight format: op contract, packing, naive reference, checkpoint schema. NumPy only.

`calib`, `exporter` and `runtime_ext` all import this package and never one another. Its names are imported when they
are asked for: a command that only prints its help needs no NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dualbinary.errors import DualBinaryError, InputError

if TYPE_CHECKING:
    from dualbinary.contract.hadamard import signed_hadamard
    from dualbinary.contract.layout import check_tensors, dequantize, pack_planes, to_layout, to_plain, unpack_planes
    from dualbinary.contract.reference import dual_binary_matmul
    from dualbinary.contract.schema import ATTENTION, HADAMARD, MLP, OP, digest, padded_k

__all__ = [
    "ATTENTION",
    "HADAMARD",
    "MLP",
    "OP",
    "DualBinaryError",
    "InputError",
    "check_tensors",
    "dequantize",
    "digest",
    "dual_binary_matmul",
    "pack_planes",
    "padded_k",
    "signed_hadamard",
    "to_layout",
    "to_plain",
    "unpack_planes",
]

_ROOMS = {
    "hadamard": ("signed_hadamard",),
    "layout": ("check_tensors", "dequantize", "pack_planes", "to_layout", "to_plain", "unpack_planes"),
    "reference": ("dual_binary_matmul",),
    "schema": ("ATTENTION", "HADAMARD", "MLP", "OP", "digest", "padded_k"),
}
_ROOM_OF = {name: f"dualbinary.contract.{room}" for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_ROOM_OF[name]), name)
    globals()[name] = value
    return value
