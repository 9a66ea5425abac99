"""Kernels that a build for tests on this machine can leave out, because this CPU does not run them."""

import runtime_ext
from dualbinary import DualBinaryError

__all__ = ["skipped_isas"]

# With sanitizers they are most of the time of a build. Names are those of runtime_ext/cmake/isa.cmake.
COSTLY = {"avx512": "AVX512"}


def skipped_isas() -> list[str]:
    """Names for DUALBINARY_SKIP_ISAS: none where there is no library yet that knows this CPU."""
    try:
        kernels = runtime_ext.describe()["kernels"]
    except DualBinaryError:
        return []
    runs = {kernel["isa"] for kernel in kernels if kernel["available"]}
    return [name for isa, name in COSTLY.items() if isa not in runs]
