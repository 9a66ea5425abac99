"""Shared by all commands: exit codes, one-line errors, quiet handling of Ctrl-C and broken pipes.

Exit codes: 0 done, 1 failed, 2 wrong input (argparse uses 2 as well), 130 interrupted.
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence

from dualbinary.errors import DualBinaryError, InputError, OptionError

__all__ = ["add_common_options", "interrupt_when_terminated", "printable", "run"]

_LONGEST = 2000  # characters of an error: names and values in it come from files


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command understands: --json and --debug."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--json", action="store_true", help="print one JSON object on standard output, nothing else there"
    )
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")


def run(
    parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], None], argv: Sequence[str] | None = None
) -> int:
    """Parse `argv`, call `command` with the result and return the exit code.

    Errors of ours and of the operating system become one line on standard error; `--debug` adds the traceback. An
    error of an option names its flag.
    """
    args = parser.parse_args(argv)
    try:
        command(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader went away (`... | head`). Python would complain again at exit, so its stdout is pointed elsewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (DualBinaryError, OSError, MemoryError) as error:
        if args.debug:
            traceback.print_exc()
        print(f"error: {_one_line(error, getattr(args, 'flags', {}))}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


def interrupt_when_terminated() -> None:
    """Let SIGTERM end this process as Ctrl-C does, so that it cleans up."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def _one_line(error: BaseException, flags: Mapping[str, str]) -> str:
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = " ".join((error.message(flags) if isinstance(error, OptionError) else str(error)).split())
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    return printable(text) or type(error).__name__


def printable(text: str) -> str:
    """`text` with what a terminal would obey, such as ESC, and what cannot be encoded, as Python writes them."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
