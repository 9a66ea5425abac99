"""Where the model and its data lie in the folder of an export."""

from dataclasses import dataclass

__all__ = ["ExportFolder"]


@dataclass(frozen=True)
class ExportFolder:
    """Paths in the folder, with slashes.

    Attributes:
        model: the .onnx file.
        data: the file of weights, in the same place.
        dtype: the word of transformers.js for it, None in other folders.
    """

    model: str
    data: str
    dtype: str | None = None

    @classmethod
    def of(cls, name: str) -> "ExportFolder":
        """The usual one: the model under the name that was asked for, with everything beside it."""
        return cls(name, f"{name}.data")
