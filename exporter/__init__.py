"""Hugging Face models to ONNX with dual-binary weights.

    from exporter import ExportOptions, export
    export(Path("model_dir"), Path("out/model.onnx"), ExportOptions(planes=4))

`export` needs torch, transformers and onnx, and is imported when it is first asked for: `python -m exporter --help`
answers without them.
"""

from typing import TYPE_CHECKING, Any

from exporter.options import ExportOptions

if TYPE_CHECKING:
    from exporter.pipeline import export

__all__ = ["ExportOptions", "export"]


def __getattr__(name: str) -> Any:
    if name != "export":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from exporter.pipeline import export

    return export
