"""Peak memory of one of the project's commands.

The peak that wait4 reports for a child includes the memory of the forked parent, which in a test process is large. A
process's own VmHWM starts again at exec. Linux only.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["run_measured", "run_tree_measured", "watched"]

_PERIOD = 0.01  # seconds between two looks at a command's processes

_WRAPPER = """
import atexit, runpy, sys
target, sys.argv = sys.argv[1], sys.argv[2:]

def note():
    status = open("/proc/self/status").read()
    open(target, "w").write(status.split("VmHWM:")[1].split()[0])

atexit.register(note)
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def run_measured(scratch: Path, module: str, *arguments: object) -> tuple[str, int]:
    """Run `python -m module arguments`, which must succeed; return its standard output and peak memory in bytes."""
    note = scratch / "peak_kib"
    command = [sys.executable, "-c", _WRAPPER, str(note), module, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout, int(note.read_text()) * 1024


def run_tree_measured(module: str, *arguments: object) -> tuple[str, int]:
    """Run `python -m module arguments` as `run_measured` does, and count what it starts as `watched` does."""
    return watched([sys.executable, "-m", module, *map(str, arguments)])


def watched(command: Sequence[str], **options: Any) -> tuple[str, int]:
    """Run a command, which must succeed, with `options` of Popen; return its output and the peak of all its processes.

    The peak, in bytes, is a bound from above: the sum of the peaks that all processes of one moment had until then. A
    peak that a process had in its last 10 ms alone is missed. Raises CalledProcessError, with the output.
    """
    most = 0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, **options)
        while process.poll() is None:
            most = max(most, sum(map(_peak, _tree(process.pid))))
            time.sleep(_PERIOD)
        output.seek(0)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command, output.read())
        return output.read(), most


def _tree(process: int) -> list[int]:
    """A process and all that it started, directly or not, as far as they still run."""
    try:
        threads = list(Path(f"/proc/{process}/task").iterdir())
        children = [child for thread in threads for child in (thread / "children").read_text().split()]
    except OSError:  # it ended meanwhile
        return []
    return [process, *(each for child in children for each in _tree(int(child)))]


def _peak(process: int) -> int:
    """Peak memory of a process in bytes; 0 where it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 if "VmHWM:" in status else 0
