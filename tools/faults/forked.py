"""Commands in processes that are forked from this one, which has imported what they need: so a kill costs no start.

Importing PyTorch and transformers takes seconds, and a tiny model's run about one. The parent runs no parallel code
itself, so its children find threads as a fresh process would.
"""

import os
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ESCAPED", "NOT_BEGUN", "Command", "Ended", "Started", "run", "start"]

Main = Callable[[list[str]], int]
ESCAPED, NOT_BEGUN = 70, 71  # exit codes: an exception that nobody caught; a signal before all
TIMEOUT = 120.0  # seconds after which a command counts as hanging


@dataclass(frozen=True)
class Command:
    """A `main` of one of the packages and its arguments; `environment` and `limits` (RLIMIT_*, bytes) for it alone."""

    main: Main
    arguments: Sequence[str | Path]
    environment: Mapping[str, str] | None = None
    limits: Mapping[int, int] | None = None


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, or minus the signal that ended it; its standard error, and seconds."""

    code: int
    errors: str
    seconds: float

    @property
    def killed(self) -> bool:
        """SIGKILL ended it."""
        return self.code == -signal.SIGKILL


class Started:
    """A command that runs, in a session of its own."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid, self._log = pid, log
        self._begin = time.monotonic()
        self._handle = os.pidfd_open(pid)

    def wait(self, seconds: float = TIMEOUT) -> bool:
        """Wait for its end; False where it runs on after `seconds`."""
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        return bool(poll.poll(max(0.0, seconds) * 1000))

    def send(self, number: int) -> None:
        """Send a signal."""
        signal.pidfd_send_signal(self._handle, number)

    def end(self) -> Ended:
        """Wait for its end, and say how it ended. One that hangs is killed; its code is then -SIGALRM."""
        hangs = not self.wait()
        if hangs:
            self.send(signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        os.close(self._handle)
        code = -signal.SIGALRM if hangs else os.waitstatus_to_exitcode(status)
        return Ended(code, self._log.read_text(errors="replace"), time.monotonic() - self._begin)


def start(command: Command, log: Path) -> Started:
    """Start `command`; what it prints goes to the file `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid == 0:
        code = ESCAPED
        try:
            code = _child(command, log)
        finally:
            os._exit(code)  # whatever happens, a child must not go on with what the parent does
    return Started(pid, log)


def run(command: Command, log: Path) -> Ended:
    """Run `command` to its end."""
    return start(command, log).end()


def _child(command: Command, log: Path) -> int:
    code = ESCAPED
    entered = False
    try:
        os.setsid()
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for descriptor in (1, 2):
            os.dup2(target, descriptor)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in a shell's background ignores it
        os.environ.update(command.environment or {})
        for kind, limit in (command.limits or {}).items():
            resource.setrlimit(kind, (limit, resource.getrlimit(kind)[1]))
        entered = True
        code = command.main([str(word) for word in command.arguments])
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        if not entered:  # a signal came before the command began
            return NOT_BEGUN
        traceback.print_exc()
    return code
