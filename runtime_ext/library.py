"""The shared library: found, checked against this package's contract, and registered."""

import ctypes
import json
import os
import site
import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import runtime_ext
from dualbinary.contract.schema import digest
from dualbinary.errors import InputError

__all__ = ["LIBRARY_VARIABLE", "SUFFIXES", "describe", "library_path", "load", "named_file", "register"]

LIBRARY_VARIABLE = "DUALBINARY_LIBRARY"
"""Environment variable that names the library's file, before any other place."""

SUFFIXES = {"win32": ".dll", "darwin": ".dylib"}


class _SessionOptions(Protocol):
    """The part of onnxruntime.SessionOptions that `register` needs."""

    def register_custom_ops_library(self, path: str) -> None: ...


def named_file(variable: str) -> Path | None:
    """The file that an environment variable names, if it is set. Raises InputError for a name that leads nowhere."""
    named = os.environ.get(variable)
    if not named:
        return None
    path = Path(named)
    if not path.is_file():
        raise InputError(f"{variable}={named}: no such file")
    return path.resolve()


def library_path() -> Path:
    """Path of the library: the file that DUALBINARY_LIBRARY names, else the one beside this package.

    An editable install keeps sources and built files apart, so the package's folder in site-packages counts as well.
    Raises InputError, with the way to build it, if there is none.
    """
    if named := named_file(LIBRARY_VARIABLE):
        return named
    name = f"libdualbinary{SUFFIXES.get(sys.platform, '.so')}"
    installed = [*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("platlib")]
    folders = [Path(p) for p in runtime_ext.__path__] + [Path(p) / runtime_ext.__name__ for p in installed]
    for folder in folders:
        if (folder / name).is_file():
            return (folder / name).resolve()
    raise InputError(
        f"{name} is not in {folders[0]} nor beside an installed runtime_ext: "
        "install the package (`pip install .` builds it), or run `cmake --preset release`, then "
        f"`cmake --build --preset release`, and set {LIBRARY_VARIABLE}=build/{name}"
    )


def register(session_options: _SessionOptions) -> None:
    """Add the op to an onnxruntime.SessionOptions.

    Raises InputError if the library is missing, cannot be loaded, or was built from another version of the contract.
    """
    path = library_path()
    library = load(path)
    built = library.dualbinary_digest().decode()
    if built != digest():
        raise InputError(
            f"{path} was built from contract {built}, this package has {digest()}: rebuild the library "
            "(`pip install .`) or install both from one version"
        )
    session_options.register_custom_ops_library(str(path))


def describe() -> dict[str, Any]:
    """Facts of the library here: version, digest, cpu_features, forced_isa, kernels, layouts, chosen; its path.

    `kernels` lists the inventory (name, isa, accuracy_level, layout, available); `layouts` names the stored layouts
    that this machine reads; `chosen` maps an accuracy_level, as a string, to the kernel that new weights get. Raises
    InputError if the library is missing, or if DUALBINARY_ISA names an ISA that this machine or build lacks.
    """
    path = library_path()
    text = ctypes.c_char_p()
    message = load(path).dualbinary_describe(ctypes.byref(text))
    if message is not None:
        raise InputError(message.decode())
    assert text.value is not None
    return {"library": str(path), **json.loads(text.value)}


@cache
def load(path: Path) -> ctypes.CDLL:
    """Open the library with ctypes; the functions used here get their types. Raises InputError if that fails."""
    try:
        library = ctypes.CDLL(str(path))
        library.dualbinary_digest.restype = ctypes.c_char_p
        library.dualbinary_describe.restype = ctypes.c_char_p
    except (OSError, AttributeError) as error:
        raise InputError(f"{path} is not a usable dualbinary library: {error}") from error
    library.dualbinary_digest.argtypes = []
    library.dualbinary_describe.argtypes = [ctypes.POINTER(ctypes.c_char_p)]
    return library
