"""Fuzz targets of all that reads files and requests in Python.

python -m tools.fuzz.readers NAME --seconds N [--json]

Each module of TARGETS has NAME, `seeds()`, small valid inputs made on the spot, and `try_input(data)`, which gives the
reader what it is fed and swallows the errors that the project promises for wrong input. Whatever else comes out is a
defect. Inputs of several files are one stream of sections (sections.py).
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Protocol, cast

__all__ = ["TARGETS", "Target", "target"]

TARGETS = (
    "calib_config",
    "chat",
    "checkpoint",
    "gguf",
    "libraries",
    "model_directory",
    "onnx_model",
    "planes",
    "quantizers",
    "requests",
    "run_files",
    "text",
)
"""Names of the targets, which are those of their modules."""


class Target(Protocol):
    """What a module of a target has."""

    NAME: str

    def seeds(self) -> Iterator[bytes]:
        """Small valid inputs."""
        ...

    def try_input(self, data: bytes) -> None:
        """Read `data`. Raises nothing where the reader keeps its promise."""
        ...


def target(name: str) -> Target:
    """The target of this name, one of TARGETS."""
    return cast(Target, import_module(f"{__name__}.{name}"))
