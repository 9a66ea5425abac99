"""Shared by all commands: exit codes, one-line errors, quiet handling of Ctrl-C, SIGTERM and broken pipes.

Exit codes: 0 done, 1 failed, 2 wrong input (argparse uses 2 as well), 130 interrupted by Ctrl-C, 143 ended by SIGTERM.
"""

import argparse
import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from dualbinary.errors import DualBinaryError, InputError, OptionError

__all__ = ["add_common_options", "called", "interrupt_when_terminated", "printable", "run", "state_of"]

_PROGRAM: ContextVar[str] = ContextVar("program", default="")  # empty: the name that a command has by itself
_LONGEST = 2000  # characters of an error: names and values in it come from files
_WAYS_OUT = {
    errno.ENOSPC: "make room and give the same command again",
    errno.EDQUOT: "make room within the quota and give the same command again",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or choose a file system that takes larger files",
    errno.EROFS: "choose another place, or make this one writable",
    errno.EACCES: "choose another place, or change its permissions",
    errno.EPERM: "choose another place, or change its permissions",
    errno.EIO: "the disk failed, or its cable; look at the system's log before trying again",
    errno.ESTALE: "what it lies on went away; bring it back and give the same command again",
}
_FOR_MEMORY = "free some, raise the limit (ulimit -v, a container's), or take a machine that has more"
# What libraries say that raise no MemoryError: PyTorch of CPUs and of CUDA, C++ through ONNX Runtime.
_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|out of memory|std::bad_alloc|bad allocation|failed to allocate|cannot allocate memory"
    r"|can't start new thread|failed to map segment",
    re.IGNORECASE,
)


class _Terminated(SystemExit):
    """SIGTERM came. Nothing takes this for Ctrl-C, to which a command such as chat has an answer of its own."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command understands: --json and --debug."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--json", action="store_true", help="print one JSON object on standard output, nothing else there"
    )
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")


def run(
    parser: argparse.ArgumentParser | Callable[[], argparse.ArgumentParser],
    command: Callable[[argparse.Namespace], None],
    argv: Sequence[str] | None = None,
    *,
    kept: Callable[[argparse.Namespace], str] = lambda _: "",
) -> int:
    """Parse `argv`, call `command` with the result and return the exit code.

    Errors of ours, of the operating system and of memory become one line on standard error; `--debug` adds the
    traceback. An error of an option names its flag. `kept` says what an interrupted command leaves, and how it goes on.
    A `parser` that takes long to make is given as the function that makes it. Its help has the name of `called`.
    """
    args = argparse.Namespace()
    begun = False
    try:
        made = parser if isinstance(parser, argparse.ArgumentParser) else parser()
        if program := _PROGRAM.get():
            _rename(made, program)
        made.parse_args(argv, args)
        begun = True
        command(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _ended("interrupted", 130, kept(args) if begun else "")
    except _Terminated:
        return _ended("terminated", 143, kept(args) if begun else "")
    except BrokenPipeError:
        # The reader went away (`... | head`). Python would complain again at exit, so its stdout is pointed elsewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if not _expected(error):
            raise
        if getattr(args, "debug", False):
            traceback.print_exc()
        print(f"error: {_one_line(error, getattr(args, 'flags', {}))}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


@contextmanager
def called(program: str) -> Iterator[None]:
    """Within it, commands say in their help that they are `program`: "dualbinary chat"."""
    token = _PROGRAM.set(program)
    try:
        yield
    finally:
        _PROGRAM.reset(token)


def _rename(parser: argparse.ArgumentParser, program: str) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb, each in action.choices.items():
                each.prog = f"{program.split()[0]} {verb}"
    parser.prog = program


def interrupt_when_terminated() -> None:
    """Let SIGTERM end this process as Ctrl-C does, so that it cleans up; a second one does not tear that apart."""

    def terminate(signum: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Terminated

    signal.signal(signal.SIGTERM, terminate)


def state_of(output: Path) -> str:
    """What an interrupted command says of its output, which appears in one step."""
    return f"{output} is whole, new or as it was" if output.exists() else f"{output} was not written"


def _ended(how: str, code: int, kept: str) -> int:
    with suppress(ValueError):  # a thread that is not the main one has no say in signals
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the work is over, and an impatient finger on Ctrl-C is late
    print(f"{how}; {kept}" if kept else how, file=sys.stderr)
    return code


def _expected(error: Exception) -> bool:
    return isinstance(error, (DualBinaryError, OSError, MemoryError)) or _says_memory(error)


def _says_memory(error: Exception) -> bool:
    """True where a library ran out of memory, whatever it raised."""
    if isinstance(error, DualBinaryError):
        return False
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return _OUT_OF_MEMORY.search(str(error)) is not None


def _one_line(error: Exception, flags: Mapping[str, str]) -> str:
    if _says_memory(error):
        detail = " ".join(str(error).split())
        return _shown(f"not enough memory{f' ({detail})' if detail else ''}; {_FOR_MEMORY}")
    if isinstance(error, OSError) and error.strerror:
        file = error.filename2 or error.filename  # of a copy, what was to be written
        text = f"{file}: {error.strerror}" if file else error.strerror
        way = _WAYS_OUT.get(error.errno or 0)
        return _shown(f"{text}; {way}" if way else text)
    text = " ".join((error.message(flags) if isinstance(error, OptionError) else str(error)).split())
    return _shown(text) or type(error).__name__


def _shown(text: str) -> str:
    return printable(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")


def printable(text: str) -> str:
    """`text` with what a terminal would obey, such as ESC, and what cannot be encoded, as Python writes them."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
