"""One folder for many systems: a model with the library of each beside it, taken from wheels.

A host loads the file that its own system's name is in, libdualbinary-linux-x64.so or libdualbinary-windows-arm64.dll;
where there is none, it registers nothing, and the function inside the model runs.
"""

from dualbinary.bundle.libraries import BundledLibrary, bundled_libraries, write_libraries

__all__ = ["BundledLibrary", "bundled_libraries", "write_libraries"]
