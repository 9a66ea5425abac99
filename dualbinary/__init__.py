"""The dual-binary weight format: op contract, packing, naive reference, checkpoint schema. NumPy only.

`calib`, `exporter` and `runtime_ext` all import this package and never one another.
"""

from dualbinary.contract.hadamard import signed_hadamard
from dualbinary.contract.layout import check_tensors, dequantize, pack_planes, to_layout, to_plain, unpack_planes
from dualbinary.contract.reference import dual_binary_matmul
from dualbinary.contract.schema import ATTENTION, HADAMARD, MLP, OP, digest, padded_k
from dualbinary.errors import DualBinaryError, InputError

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
