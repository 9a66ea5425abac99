"""Lines from a terminal, with editing, history and completion of commands; or from a pipe. Ctrl-C as a question.

Editing is Python's readline, where Python has it: not on Windows, whose console edits lines itself.
"""

import contextlib
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from dualbinary import InputError

__all__ = ["Interrupts", "Lines", "message_of"]

PROMPT, MORE = "> ", "… "
HISTORY = 1000  # lines that a file of them keeps


class Lines:
    """Messages as they are typed: a line, or several where each but the last one ends in a backslash."""

    def __init__(self, commands: Sequence[str], history: Path | None) -> None:
        """`commands` are completed; `history` is a file that keeps lines from one time to the next."""
        self.interactive = sys.stdin.isatty()
        self._readline = _readline() if self.interactive else None
        self._history = history
        if self._readline is None:
            return
        self._readline.set_completer_delims(" ")
        self._readline.set_completer(lambda text, place: _completion(commands, text, place))
        self._readline.parse_and_bind("tab: complete")
        if history is not None and history.is_file():
            try:
                self._readline.read_history_file(history)
            except OSError as error:
                raise InputError(f"{history}: not a file of lines that were typed ({error.strerror})") from None

    def read(self) -> str:
        """The next message. Raises EOFError where there are no more, KeyboardInterrupt at Ctrl-C, InputError for bytes.

        A JSON string of a pipe is never a command: a program can put into one what others have written.
        """
        try:
            return self._typed() if self.interactive else self._piped()
        except UnicodeDecodeError as error:
            raise InputError(f"a line is not UTF-8 text ({error}); give it as UTF-8") from None

    def _piped(self) -> str:
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        message = message_of(line.rstrip("\r\n"))
        return f"/{message}" if line.startswith('"') and message.startswith("/") else message

    def _typed(self) -> str:
        lines = [input(PROMPT)]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(input(MORE))
        return "\n".join(lines)

    def close(self) -> None:
        """Write the history, where a file keeps it."""
        if self._readline is not None and self._history is not None:
            self._readline.set_history_length(HISTORY)
            self._history.parent.mkdir(parents=True, exist_ok=True)
            aside = self._history.with_name(self._history.name + ".new")
            try:
                self._readline.write_history_file(aside)
                aside.replace(self._history)
            except BaseException:  # a full disk: the lines of earlier times stay
                aside.unlink(missing_ok=True)
                raise


def message_of(line: str) -> str:
    """The message of a line of a pipe: the line, or the string that it is in JSON, to hold line ends.

    Raises InputError where it begins as such a string and is none.
    """
    if not line.startswith('"'):
        return line
    try:
        return str(json.loads(line))
    except ValueError as error:
        raise InputError(f"{line[:40]}: begins as a JSON string and is none ({error})") from None


class Interrupts:
    """Within `caught`, a first Ctrl-C only makes `asked` true; a second one raises KeyboardInterrupt.

    A run of the model is never broken off in the middle, so the cache stays what it says it is.
    """

    def __init__(self) -> None:
        self._count = 0

    def asked(self) -> bool:
        """True once Ctrl-C was pressed."""
        return self._count > 0

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """See the class."""
        self._count = 0

        def note(number: int, frame: FrameType | None) -> None:
            self._count += 1
            if self._count > 1:
                raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _readline() -> Any:
    try:
        import readline
    except ImportError:  # Windows
        return None
    return readline


def _completion(commands: Sequence[str], text: str, place: int) -> str | None:
    found = [name for name in commands if text.startswith("/") and name.startswith(text)]
    return found[place] if place < len(found) else None
