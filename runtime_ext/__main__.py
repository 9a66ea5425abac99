"""The runtime's commands: `python -m runtime_ext {generate,serve,eval,logits,bench,info}`."""

import argparse
import sys
from pathlib import Path

from dualbinary.cli import console
from dualbinary.cli.options import add_options
from runtime_ext import bench, generate, info
from runtime_ext.decoder import LoadOptions
from runtime_ext.evaluation import command as evaluation
from runtime_ext.evaluation import logits
from runtime_ext.serve import command as serve

__all__ = ["main"]

COMMANDS = {
    "generate": (generate, "continue a text"),
    "serve": (serve, "answer requests of the OpenAI API over HTTP"),
    "eval": (evaluation, "measure perplexity of texts, and run tasks of lm-evaluation-harness"),
    "logits": (logits, "answer sequences of token ids on standard input with their logits"),
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
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        command.set_defaults(command=module.command)
        nargs = "?" if module is info else None
        command.add_argument("model", type=Path, nargs=nargs, metavar="OUT.onnx", help="exported model")
        add_options(command, LoadOptions, *module.OPTIONS)
        console.add_common_options(command)
    return console.run(parser, lambda args: args.command(args), argv)


if __name__ == "__main__":
    sys.exit(main())
