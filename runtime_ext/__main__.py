"""The runtime's commands: `python -m runtime_ext {generate,chat,serve,eval,logits,bench,info,doctor}`."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from dualbinary.cli import console
from dualbinary.cli.options import add_options
from dualbinary.errors import DualBinaryError

__all__ = ["COMMANDS", "main", "parser"]


@dataclass(frozen=True)
class Command:
    """A command: the module that has OPTIONS, EXAMPLES and `command`, its summary, and whether it needs a model.

    The module is imported when the command is asked for, so that packages of the others need not be there.
    """

    module: str
    summary: str
    needs_model: bool = True


COMMANDS = {
    "generate": Command("runtime_ext.generate", "continue a text"),
    "chat": Command("runtime_ext.chat.command", "talk to a model, turn by turn"),
    "serve": Command("runtime_ext.serve.command", "answer requests of the OpenAI API over HTTP"),
    "eval": Command(
        "runtime_ext.evaluation.command", "measure perplexity of texts, and run tasks of lm-evaluation-harness"
    ),
    "logits": Command(
        "runtime_ext.evaluation.logits", "answer sequences of token ids on standard input with their logits"
    ),
    "bench": Command("runtime_ext.bench", "measure how fast a model runs here"),
    "info": Command("runtime_ext.info", "describe the library, and a model", needs_model=False),
    "doctor": Command(
        "runtime_ext.doctor.command", "say what this machine runs a model with, and what is wrong", needs_model=False
    ),
}
# What a device has to have, by the name that is imported.
_REQUIRED = ("jinja2", "numpy", "onnxruntime", "tokenizers")


def parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """The command line, with the options of the command `chosen` only, or of all: each one's module is imported.

    Raises DualBinaryError where a package is missing that every device should have.
    """
    result = argparse.ArgumentParser(
        prog="python -m runtime_ext", description="Run exported models with ONNX Runtime: no torch, no onnx."
    )
    commands = result.add_subparsers(required=True, metavar="COMMAND")
    for name, each in COMMANDS.items():
        listed = commands.add_parser(
            name,
            help=each.summary,
            description=f"{each.summary[0].upper()}{each.summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if chosen in (name, None):
            _fill(listed, each)
    return result


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and return the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    first = next((word for word in arguments if not word.startswith("-")), "")
    console.interrupt_when_terminated()
    return console.run(lambda: parser(first), _run, arguments)


def _run(args: argparse.Namespace) -> None:
    with _packages_named():
        args.command(args)


@contextmanager
def _packages_named() -> Iterator[None]:
    """Say which package is missing, and how it comes, where that is one of those that every device should have."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in _REQUIRED:
            raise
        raise DualBinaryError(
            f"the package {error.name} is not installed; `pip install dualbinary` brings what it needs"
        ) from error


def _fill(listed: argparse.ArgumentParser, each: Command) -> None:
    with _packages_named():
        module = import_module(each.module)
    listed.set_defaults(command=module.command)
    listed.epilog = module.EXAMPLES
    listed.add_argument(
        "model", type=Path, nargs=None if each.needs_model else "?", metavar="OUT.onnx", help="exported model"
    )
    add_options(listed, *module.OPTIONS)
    console.add_common_options(listed)


if __name__ == "__main__":
    sys.exit(main())
