"""The shared object with the CUDA kernels, which the custom-op library opens when a session asks for CUDA.

A build without CUDA has none, and nothing here is an error then.
"""

import sys
from pathlib import Path
from typing import Any

from dualbinary.contract.schema import digest
from dualbinary.errors import InputError
from runtime_ext import cuda_capi
from runtime_ext.library import SUFFIXES, library_path, named_file

__all__ = ["CUDA_LIBRARY_VARIABLE", "cuda_library_path", "describe_cuda"]

CUDA_LIBRARY_VARIABLE = "DUALBINARY_CUDA_LIBRARY"
"""Environment variable that names the file, before the place beside the custom-op library."""


def cuda_library_path() -> Path | None:
    """Path of the library: the file that DUALBINARY_CUDA_LIBRARY names, else the one beside the custom-op library.

    None in a build without CUDA. Raises InputError for a name that leads nowhere.
    """
    if named := named_file(CUDA_LIBRARY_VARIABLE):
        return named
    path = library_path().with_name(f"libdualbinary_cuda{SUFFIXES.get(sys.platform, '.so')}")
    return path if path.is_file() else None


def describe_cuda() -> dict[str, Any] | None:
    """Facts of the library and of this machine's devices, and its path; None in a build without CUDA.

    Keys: library, version, digest, emulated, architectures, kernels, devices, error (why there is no device, or None).
    Raises InputError for a file that is no such library or was built from another version of the contract.
    """
    path = cuda_library_path()
    if path is None:
        return None
    facts = {"library": str(path), **cuda_capi.describe(path)}
    if facts["digest"] != digest():
        raise InputError(
            f"{path} was built from contract {facts['digest']}, this package has {digest()}: build both as one"
        )
    return facts
