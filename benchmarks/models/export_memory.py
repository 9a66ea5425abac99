"""Peak memory and time of an export of a random Llama, of 3.2 billion parameters by default.

    python -m benchmarks.models.export_memory SCRATCH_DIR [--layers 28] [--planes 2] [--json]

Writes the model (6.4 GB) and its export below SCRATCH_DIR and removes both.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from benchmarks.common.peak_memory import run_measured
from benchmarks.common.synthetic_llama import LlamaShape, write_llama
from dualbinary.cli.console import add_common_options, run

__all__ = ["main"]


def _command(args: argparse.Namespace) -> None:
    shape = LlamaShape(args.layers, hidden=3072, intermediate=8192, vocabulary=128256, heads=24, kv_heads=8)
    work = args.scratch / "dualbinary-export-memory"
    try:
        model_dir = write_llama(work / "model", shape)
        begin = time.perf_counter()
        options = ("--planes", args.planes, "--offset", "--json", "--quiet")
        output, peak = run_measured(work, "exporter", model_dir, work / "out" / "model.onnx", *options)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    summary = json.loads(output)
    result = {
        "parameters": summary["parameters"],
        "seconds": round(time.perf_counter() - begin, 1),
        "peak_rss_bytes": peak,
        "file_bytes": summary["file_bytes"],
    }
    print(
        json.dumps(result)
        if args.json
        else f"{result['parameters'] / 1e9:.2f} billion parameters: peak {peak / 1e6:.0f} MB, {result['seconds']} s, "
        f"{result['file_bytes'] / 1e6:.0f} MB written"
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models.export_memory", description="Peak memory and time of an export."
    )
    parser.add_argument("scratch", type=Path, metavar="SCRATCH_DIR", help="where 8 GB may be written for a while")
    parser.add_argument("--layers", type=int, default=28, help="of width 3072 (default 28)")
    parser.add_argument("--planes", type=int, default=2, help="with offset (default 2)")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
