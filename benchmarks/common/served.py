"""`python -m runtime_ext serve` in a process of its own, for as long as something is measured."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dualbinary import DualBinaryError

__all__ = ["Served", "resident_bytes", "served"]


@dataclass(frozen=True)
class Served:
    """The base URL of the API, the model's name there, and the process."""

    url: str
    model: str
    pid: int


@contextlib.contextmanager
def served(path: Path, options: Sequence[str]) -> Iterator[Served]:
    """A server of the model at `path` on a free port. Raises DualBinaryError where it does not start, or ends badly."""
    command = [sys.executable, "-m", "runtime_ext", "serve", str(path), "--port", "0", "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            raise DualBinaryError("the server did not start; it has said why")
        facts = json.loads(line)
        drain = None
        try:
            # Its log would fill the pipe.
            drain = subprocess.Popen(["cat"], stdin=server.stdout, stdout=subprocess.DEVNULL)
            yield Served(facts["url"], facts["model"], server.pid)
        finally:
            server.send_signal(signal.SIGINT)
            code = server.wait(60)
            if drain is not None:
                drain.wait(10)
    if code:
        raise DualBinaryError(f"the server ended with code {code}")


def resident_bytes(pid: int) -> int:
    """Bytes of a process that are in memory. Linux only."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
