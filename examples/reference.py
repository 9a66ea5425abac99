"""A full-precision ONNX export to compare with: the same graph builder, plain weights, the last logits.

python -m examples.reference MODEL_DIR OUT_DIR [--target cuda]

writes OUT_DIR/model.onnx and the files a runtime needs beside it.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from dualbinary.cli import console
from exporter.graph.passes.logits_columns import LogitsColumnsPass

__all__ = ["export_reference"]

TYPES = {"cpu": "f32", "cuda": "f16"}
"""Type of weights and activations for each target."""


def export_reference(model_directory: Path, output_directory: Path, target: str = "cpu") -> Path:
    """Export with ONNX Runtime's own operators only, unless that was done before; returns the ONNX file.

    In float32 for the CPU provider, in float16 where `target` is "cuda".
    """
    path = output_directory / "model.onnx"
    if path.exists():
        return path
    # Here, because a reference that is already there needs none of it.
    import mobius
    from mobius.integrations.ort_genai import export_package

    output_directory.parent.mkdir(parents=True, exist_ok=True)
    package = mobius.build(str(model_directory), dtype=TYPES[target], execution_provider=target)
    model = package["model"]
    logits = next(value for value in model.graph.outputs if value.name == "logits")
    LogitsColumnsPass(logits.producer(), None, last=True)(model)  # the same work as the export's
    with tempfile.TemporaryDirectory(dir=output_directory.parent) as scratch:
        whole = Path(scratch) / "reference"
        export_package(package, str(whole), local_config_dir=str(model_directory), progress_bar=False)
        shutil.rmtree(output_directory, ignore_errors=True)
        whole.rename(output_directory)
    return path


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.reference", description="Export a model in full precision."
    )
    parser.add_argument("model_directory", type=Path, metavar="MODEL_DIR")
    parser.add_argument("output_directory", type=Path, metavar="OUT_DIR")
    parser.add_argument("--target", choices=TYPES, default="cpu", help="cpu (default): float32; cuda: float16")
    console.add_common_options(parser)

    def command(args: argparse.Namespace) -> None:
        print(export_reference(args.model_directory, args.output_directory, args.target))

    return console.run(parser, command, argv)


if __name__ == "__main__":
    sys.exit(main())
