"""`dualbinary completion SHELL`: a script that makes the shell complete verbs, options, their values and files.

It is made once from the command lines of all verbs, by shtab, and then needs neither Python nor this package to answer
the Tab key. A verb whose packages are not installed is completed by its name alone.
"""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from dualbinary.cli import console
from dualbinary.cli.verbs import VERBS, Verb
from dualbinary.errors import DualBinaryError

__all__ = ["SHELLS", "command_lines", "main", "parser", "script"]

SHELLS = ("bash", "zsh", "fish")

_EPILOG = """\
examples:
  dualbinary completion bash > ~/.local/share/bash-completion/completions/dualbinary
  dualbinary completion zsh > ~/.zfunc/_dualbinary                 with fpath+=~/.zfunc before compinit in ~/.zshrc
  dualbinary completion fish > ~/.config/fish/completions/dualbinary.fish

Run it again after an upgrade. It takes some seconds: all commands are asked for their options.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="dualbinary completion",
        description="Print a script that makes a shell complete `dualbinary` at the Tab key.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("shell", choices=SHELLS, help="the shell that reads it")
    result.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return result


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return console.run(parser(), lambda args: print(script(args.shell)), argv)


def script(shell: str) -> str:
    """The script for one of SHELLS. Raises DualBinaryError where shtab is not installed."""
    try:
        import shtab
    except ModuleNotFoundError as error:
        raise DualBinaryError(f"{error}; pip install 'dualbinary[completion]' has what is needed") from None
    about = "Language models at two to five bits per weight."
    everything = argparse.ArgumentParser(prog="dualbinary", description=about)
    everything.add_argument("--version", action="store_true", help="say what is installed, and leave")
    commands = everything.add_subparsers(metavar="VERB")
    for name, own in command_lines().items():
        parents = [] if own is None else [own]
        verb = commands.add_parser(name, help=VERBS[name].text, parents=parents, add_help=False)
        for action in verb._actions:
            if action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return shtab.complete(everything, shell)


def command_lines() -> dict[str, argparse.ArgumentParser | None]:
    """The command line of each verb; None where it cannot be imported, as an extra is not installed."""
    found: dict[str, argparse.ArgumentParser | None] = {}
    for name, verb in VERBS.items():
        try:
            found[name] = _parser_of(verb)
        except ImportError:
            found[name] = None
    return found


def _parser_of(verb: Verb) -> argparse.ArgumentParser:
    """The command line of a verb. Raises ImportError."""
    if verb.module == __name__:
        return parser()
    module, _, function = verb.parser.partition(":")
    found: Any = getattr(importlib.import_module(module or f"{verb.module}.__main__"), function or "parser")()
    if verb.parser or not verb.arguments:
        return found
    return next(
        action.choices[verb.arguments[0]] for action in found._actions if isinstance(action, argparse._SubParsersAction)
    )


if __name__ == "__main__":
    sys.exit(main())
