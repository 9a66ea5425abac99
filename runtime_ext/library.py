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
from dualbinary.files.shared_library import missing_bytes, system_of_library
from dualbinary.files.systems import LIBRARY, this_system

__all__ = [
    "ISA_VARIABLE",
    "LIBRARY_VARIABLE",
    "SUFFIXES",
    "checked_library",
    "describe",
    "genai_overlay",
    "library_path",
    "load",
    "named_file",
    "register",
]

LIBRARY_VARIABLE = "DUALBINARY_LIBRARY"
"""Environment variable that names the library's file, before any other place."""

ISA_VARIABLE = "DUALBINARY_ISA"
"""Environment variable that forces one instruction set."""

SUFFIXES = {"win32": ".dll", "darwin": ".dylib"}

# By this name a Linux process finds the library once it is loaded (its SONAME, from CMakeLists.txt).
_LOADED_NAME = "libdualbinary_loaded.so"


class _SessionOptions(Protocol):
    """The part of onnxruntime.SessionOptions that `register` needs."""

    def register_custom_ops_library(self, path: str) -> None: ...


def named_file(variable: str) -> Path | None:
    """The file that an environment variable names, if it is set. Raises InputError for a name that leads nowhere."""
    named = os.environ.get(variable)
    if not named:
        return None
    path = Path(named)
    if path.is_dir():
        raise InputError(f"{variable}={named}: a folder, expected the library's file; name the file in it, or unset it")
    if not path.is_file():
        raise InputError(f"{variable}={named}: no such file; name one that is there, or unset it")
    return path.resolve()


def library_path() -> Path:
    """Path of the library: the file that DUALBINARY_LIBRARY names, else the one beside this package.

    An editable install keeps sources and built files apart, so the package's folder in site-packages counts as well.
    Raises InputError, with the way to build it, if there is none.
    """
    if named := named_file(LIBRARY_VARIABLE):
        return named
    name = f"{LIBRARY}{SUFFIXES.get(sys.platform, '.so')}"
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
    session_options.register_custom_ops_library(str(checked_library()))


def genai_overlay() -> str:
    """Load the library, and return the JSON by which onnxruntime-genai uses it in this process.

        config = onnxruntime_genai.Config("out")
        config.overlay(runtime_ext.genai_overlay())
        model = onnxruntime_genai.Model(config)

    The model's folder needs no library and may consist of links. Raises InputError as `register` does, and where the
    system does not find a loaded library by its name.
    """
    path = checked_library()
    name = path.name if sys.platform in SUFFIXES else _LOADED_NAME
    try:
        ctypes.CDLL(name)
    except OSError as error:
        raise InputError(
            f"{path} is loaded, but not found again by the name {name}, which onnxruntime-genai needs ({error}): "
            "rebuild it (`pip install .`), or name a file beside the model in custom_ops_library"
        ) from error
    return json.dumps({"model": {"decoder": {"session_options": {"custom_ops_library": name}}}})


def checked_library() -> Path:
    """Path of the library, which is loaded and fits this package. Raises InputError as `register` does."""
    path = library_path()
    built = load(path).dualbinary_digest().decode()
    if built != digest():
        raise InputError(
            f"{path} was built from contract {built}, this package has {digest()}: rebuild the library "
            "(`pip install .`) or install both from one version"
        )
    return path


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
    _refuse_foreign(path)
    try:
        library = ctypes.CDLL(str(path))
        library.dualbinary_digest.restype = ctypes.c_char_p
        library.dualbinary_describe.restype = ctypes.c_char_p
        library.dualbinary_version.restype = ctypes.c_char_p
    except (OSError, AttributeError) as error:
        way = "it is not ours; unset DUALBINARY_LIBRARY"
        if "GLIBC" in str(error):
            way = "it was built on a newer Linux; `pip install` a wheel, or build it here"
        elif isinstance(error, OSError):
            way = "install the package again"
        raise InputError(f"{path} is not a usable dualbinary library: {error}: {way}") from error
    library.dualbinary_digest.argtypes = library.dualbinary_version.argtypes = []
    library.dualbinary_describe.argtypes = [ctypes.POINTER(ctypes.c_char_p)]
    return library


def _refuse_foreign(path: Path) -> None:
    """Raise InputError for what the system would refuse in words of its own, or crash of: read, not loaded."""
    unusable = f"{path} is not a usable dualbinary library: "
    try:
        content = path.read_bytes()
    except OSError as error:
        way = "give this user the right to read it"
        raise InputError(f"{unusable}it cannot be read ({error.strerror}): {way}") from error
    if not content:
        raise InputError(f"{unusable}it is empty: install the package again")
    if missing := missing_bytes(content, len(content)):
        raise InputError(f"{unusable}its last {missing} bytes were cut off: copy it again")
    here, system = this_system(), system_of_library(content)
    if here is None:
        return  # a system that only its own compiler knows
    if system is None:
        raise InputError(f"{unusable}it is no shared library: install the package, or name {LIBRARY}'s file")
    if system != here:
        way = f"`pip install` brings that of {here.name}, and bundles call it {here.file}"
        raise InputError(f"{unusable}it is for {system.name}, and this is {here.name}: {way}")
