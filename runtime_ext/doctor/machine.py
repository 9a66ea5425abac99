"""What the machine has: ONNX Runtime, the library, its contract, the processor and the kernels for it."""

import importlib
import os
import re
from collections.abc import Iterator
from importlib.metadata import distributions
from typing import Any

import runtime_ext
from dualbinary.contract.schema import digest
from dualbinary.errors import DualBinaryError, InputError
from dualbinary.files.systems import this_system
from runtime_ext.cuda_library import describe_cuda
from runtime_ext.doctor.findings import GOOD, NOTE, WRONG, Finding, checked
from runtime_ext.library import ISA_VARIABLE, LIBRARY_VARIABLE, checked_library, load

__all__ = ["look_at_machine"]

OLDEST_RUNTIME = (1, 23)
"""The oldest ONNX Runtime that runs exports; those with recurrent states need 1.25."""
NEWEST_TESTED = (1, 32)
_BUILDS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml")


def look_at_machine(provider: str) -> Iterator[Finding]:
    """Findings about everything but a model. `provider` is "cpu" or "cuda"."""
    yield from _runtime(provider)
    library = checked("library", _library)
    yield library
    if library.state == GOOD:
        yield Finding("contract", GOOD, f"{digest()}, of library and package")
    yield from _processor()
    if provider == "cuda":
        yield checked("cuda kernels", _cuda)


def _runtime(provider: str) -> Iterator[Finding]:
    """ONNX Runtime itself."""
    try:
        ort: Any = importlib.import_module("onnxruntime")
        version, providers = str(ort.__version__), ort.get_available_providers()
    except (ImportError, AttributeError) as error:
        way = "`pip install onnxruntime` brings it; where it is installed, reinstall it"
        yield Finding("onnxruntime", WRONG, f"onnxruntime cannot be imported ({error}); {way}")
        return
    number = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    facts = f"{version} with {', '.join(providers)}"
    if number < OLDEST_RUNTIME:
        oldest = ".".join(map(str, OLDEST_RUNTIME))
        text = f"expected onnxruntime {oldest} or newer, got {version}; `pip install --upgrade onnxruntime`"
        yield Finding("onnxruntime", WRONG, text)
    elif number > NEWEST_TESTED:
        newest = ".".join(map(str, NEWEST_TESTED))
        text = f"{facts}; newer than {newest}, the newest that was tested: if a model fails, try that one"
        yield Finding("onnxruntime", NOTE, text)
    else:
        yield Finding("onnxruntime", GOOD, facts)
    installed = {each.name for each in distributions()}
    several = [name for name in _BUILDS if name in installed]
    if len(several) > 1:
        text = f"{' and '.join(several)} are installed and overwrite each other's files; uninstall all, install one"
        yield Finding("onnxruntime", WRONG, text)
    if provider == "cuda" and "CUDAExecutionProvider" not in providers:
        text = f"this onnxruntime {version} has no CUDAExecutionProvider; install onnxruntime-gpu in its place"
        yield Finding("provider", WRONG, text)


def _library() -> str:
    """Where the library is, and why that one; it fits, or there would be an error."""
    path = checked_library()
    version = load(path).dualbinary_version().decode()
    reason = f"named in {LIBRARY_VARIABLE}" if os.environ.get(LIBRARY_VARIABLE) else "beside the package"
    system = this_system()
    return f"{path}, {reason}, version {version}, for {system.name if system else 'this system'}"


def _processor() -> Iterator[Finding]:
    """The instruction set, and the kernels that new weights get."""
    try:
        facts = runtime_ext.describe()
    except DualBinaryError as error:
        if ISA_VARIABLE in str(error):  # else it is a finding about the library already
            yield Finding("kernels", WRONG, str(error))
        return
    isas = list(dict.fromkeys(kernel["isa"] for kernel in facts["kernels"] if kernel["available"]))
    chosen = ", ".join(f"{name} at accuracy level {level}" for level, name in facts["chosen"].items())
    features = ", ".join(facts["cpu_features"]) or "no vector instructions that kernels use"
    if forced := facts["forced_isa"]:
        text = f"{chosen}; {ISA_VARIABLE}={forced} asks for them, of {', '.join(isas)}: unset it for the fastest"
        yield Finding("kernels", NOTE, text)
    elif isas == ["scalar"]:
        text = f"{chosen}: this processor has {features}, and models run several times slower than they could"
        yield Finding("kernels", NOTE, text)
    else:
        yield Finding("kernels", GOOD, f"{chosen}; the processor has {features}")


def _cuda() -> str:
    facts = describe_cuda()
    if facts is None:
        raise InputError("there is no libdualbinary_cuda beside the library; docs/howto/cuda.md says how to build it")
    if facts["error"]:
        raise InputError(f"{facts['library']}: {facts['error']}; see nvidia-smi")
    return f"{facts['library']}, for {', '.join(each['name'] for each in facts['devices'])}"
