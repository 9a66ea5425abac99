"""The custom-op library of the runtime that is installed here, asked of a child process, as packages stay apart."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["InstalledLibrary", "installed_library"]


@dataclass(frozen=True)
class InstalledLibrary:
    """The library's file, or None and the `reason`.

    layouts: names of the stored layouts that it reads on this machine.
    cuda: the library with the CUDA kernels, where there is one.
    """

    path: Path | None
    layouts: tuple[str, ...] = ()
    cuda: Path | None = None
    reason: str = ""


def installed_library() -> InstalledLibrary:
    """Find the library by `python -m runtime_ext info`."""
    command = [sys.executable, "-m", "runtime_ext", "info", "--json"]
    answer = subprocess.run(command, check=False, capture_output=True, text=True)
    if answer.returncode:
        lines = answer.stderr.strip().splitlines()
        reason = lines[-1].removeprefix("error: ") if lines else f"{' '.join(command[1:])} said nothing"
        return InstalledLibrary(None, reason=reason)
    facts = json.loads(answer.stdout)
    library, cuda = facts["library"], facts["cuda"]
    return InstalledLibrary(
        Path(library["library"]), tuple(library["layouts"]), Path(cuda["library"]) if cuda else None
    )
