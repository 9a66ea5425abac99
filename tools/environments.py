"""Environments of packages beside the one that runs, each made once: for compilers, other hosts and other versions.

An environment notes what it was made of. One that an interruption left, or whose packages or pins have changed since,
is made anew.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dualbinary import DualBinaryError

__all__ = ["Environment", "newest_version"]

_PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")


@dataclass(frozen=True)
class Environment:
    """`packages`, as pip takes them, for the Python `interpreter` in `folder`, at the versions of `pins` where given.

    With `below`, the interpreter of another environment of the same Python, packages of that one are there too, behind
    its own.
    """

    folder: Path
    packages: tuple[str, ...]
    pins: Path | None = None
    interpreter: Path = Path(sys.executable)
    below: Path | None = None

    def python(self) -> Path:
        """Return its interpreter; install it where it is missing or of other packages.

        Raises DualBinaryError, with what pip says, where that fails.
        """
        python, note = self.folder / "bin" / "python", self.folder / ".installed"
        if note.is_file() and note.read_text(encoding="utf-8") == self._made_of():
            return python
        print(f"installing {' '.join(self.packages)} into {self.folder.name}", file=sys.stderr)
        _call([self.interpreter, "-m", "venv", "--clear", self.folder])
        if self.below is not None:
            self._put_behind(self.below)
        pins = [] if self.pins is None else ["-c", self.pins]
        _call([python, *_PIP, "install", *pins, *self.packages])
        note.write_text(self._made_of(), encoding="utf-8")
        return python

    def _made_of(self) -> str:
        pins = "" if self.pins is None else self.pins.read_text(encoding="utf-8")
        return "\n".join((str(self.interpreter), str(self.below), *self.packages, pins))

    def _put_behind(self, python: Path) -> None:
        site = next(python.parent.parent.glob("lib/python*/site-packages"))
        own = next(self.folder.glob("lib/python*/site-packages"))
        # By a path file, and not by `--system-site-packages`, which is for the Python that a virtual environment is of.
        (own / "below.pth").write_text(f"import site; site.addsitedir({str(site)!r})\n", encoding="utf-8")


def newest_version(name: str, of: str = "", *, python: str = "") -> str:
    """The newest release of the package `name`, or of its series `of` such as "1.24", that pip finds.

    It is for the Python of version `python`, such as "3.13", which need not have pip; else for this one. Raises
    DualBinaryError where there is none. Nothing is downloaded.
    """
    words = ["--python-version", python] if python else []
    said = _call([sys.executable, "-m", "pip", "--disable-pip-version-check", "index", "versions", *words, name])
    line = next((line for line in said.splitlines() if line.startswith("Available versions:")), "")
    releases = [word.strip() for word in line.partition(":")[2].split(",")]  # newest first, as pip sorts them
    for release in releases:
        if release and f"{release}.".startswith(f"{of}." if of else ""):
            return release
    raise DualBinaryError(f"pip finds no release of {name} {of}".rstrip())


def _call(command: list[str | Path]) -> str:
    """Standard output of a program. Raises DualBinaryError with the last lines that say what is wrong."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or done.stderr.splitlines()
        reason = " ".join(line.removeprefix("ERROR: ") for line in lines[:2]) or f"exit code {done.returncode}"
        raise DualBinaryError(f"`{' '.join(map(str, command))}` failed: {reason}")
    return done.stdout
