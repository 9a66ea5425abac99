"""The runtime's commands: `python -m runtime_ext {generate,bench,info}`."""

import argparse
import sys
from pathlib import Path

from dualbinary.cli import console
from runtime_ext import bench, generate, info

__all__ = ["main"]

COMMANDS = {
    "generate": (generate, "continue a text"),
    "bench": (bench, "measure how fast a model runs here"),
    "info": (info, "describe the library, and a model"),
}


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m runtime_ext", description="Run exported models with ONNX Runtime: no torch, no onnx."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=(module.__doc__ or "").partition("\n")[0])
        command.set_defaults(command=module.command)
        nargs = "?" if module is info else None
        command.add_argument("model", type=Path, nargs=nargs, metavar="OUT.onnx", help="exported model")
        command.add_argument("--threads", type=_threads, default=0, metavar="N", help="0 (default): one for each core")
        command.add_argument(
            "--no-library",
            dest="library",
            action="store_false",
            help="do not register the library: run the operator by the function inside the model",
        )
        module.add_arguments(command)
        console.add_common_options(command)
    return console.run(parser, lambda args: args.command(args), argv)


def _threads(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
