"""Peak memory of one of the project's commands.

The peak that wait4 reports for a child includes the memory of the forked parent, which in a test process is large. A
process's own VmHWM starts again at exec. Linux only.
"""

import subprocess
import sys
from pathlib import Path

__all__ = ["run_measured"]

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
