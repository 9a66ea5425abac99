"""The runtime's commands: `python -m runtime_ext {generate,serve,bench,info,doctor}`."""

import argparse
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

from dualbinary.cli import console
from dualbinary.cli.options import add_options
from dualbinary.errors import DualBinaryError

__all__ = ["main"]


@dataclass(frozen=True)
class _Command:
    """A command: its module is imported when the command is asked for, so that the others need not be installed."""

    module: str
    text: str
    needs_model: bool = True


COMMANDS = {
    "generate": _Command("runtime_ext.generate", "continue a text"),
    "serve": _Command("runtime_ext.serve.command", "answer requests of the OpenAI API over HTTP"),
    "bench": _Command("runtime_ext.bench", "measure how fast a model runs here"),
    "info": _Command("runtime_ext.info", "describe the library, and a model", needs_model=False),
    "doctor": _Command(
        "runtime_ext.doctor.command", "say what this machine runs a model with, and what is wrong", needs_model=False
    ),
}
# What a device has to have, by the name that is imported.
_REQUIRED = ("jinja2", "numpy", "onnxruntime", "tokenizers")


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and return the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python -m runtime_ext", description="Run exported models with ONNX Runtime: no torch, no onnx."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, each in COMMANDS.items():
        command = commands.add_parser(name, help=each.text, description=f"{each.text[0].upper()}{each.text[1:]}.")
        if name not in arguments[:1]:
            continue
        try:
            module = importlib.import_module(each.module)
        except ModuleNotFoundError as error:
            if error.name not in _REQUIRED:
                raise
            return _fail(f"the package {error.name} is not installed; `pip install dualbinary` brings what it needs")
        except DualBinaryError as error:
            return _fail(str(error))
        command.set_defaults(command=module.command)
        nargs = None if each.needs_model else "?"
        command.add_argument("model", type=Path, nargs=nargs, metavar="OUT.onnx", help="exported model")
        add_options(command, *module.OPTIONS)
        console.add_common_options(command)
    return console.run(parser, lambda args: args.command(args), arguments)


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
