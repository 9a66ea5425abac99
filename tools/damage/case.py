"""A damaged input, and the outcome of giving it to the command that reads it."""

import contextlib
import io
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from dualbinary.__main__ import main

__all__ = ["Case", "Outcome", "give"]


@dataclass(frozen=True)
class Case:
    """A damaged input.

    Attributes:
        entry: what reads it, which is the title in the page.
        damage: what is wrong with it, in a few words.
        files: contents by name below a directory; "" for a directory of that name.
        command: a verb and its arguments; {dir} is the directory, {out} a folder for output, which does not exist.
        variables: of the environment.
        links: links by name, to where they lead.
    """

    entry: str
    damage: str
    files: Mapping[str, bytes | None]
    command: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    links: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Outcome:
    """The outcome: the exit code, lines of standard error, and names of files that were left.

    A calibration's work directory, from which it would resume, is not among these.
    """

    code: int
    lines: tuple[str, ...]
    left: tuple[str, ...]

    @property
    def message(self) -> str:
        """The sentence, without the word before it; the usage of a command that refuses its line is left out."""
        return re.sub(r"\A[\w .]*error: ", "", self.lines[-1]) if self.lines else ""


def give(case: Case) -> Outcome:
    """Give the input to its command, in this process. Paths of this machine become DIR."""
    with tempfile.TemporaryDirectory(prefix="dualbinary-damage-") as name:
        directory = Path(name).resolve() / "in"
        _write(directory, case)
        out = directory.parent / "out"
        before = {str(path.relative_to(directory)) for path in directory.rglob("*")}
        words = [word.format(dir=directory, out=out) for word in case.command]
        with mock.patch.dict(os.environ, case.variables), _captured() as said:
            try:
                code = main(words)
            except SystemExit as leaving:  # argparse
                code = leaving.code if isinstance(leaving.code, int) else 1
        after = {str(path.relative_to(directory)) for path in directory.rglob("*")}
        left = sorted(after - before) + sorted(path.name for path in out.glob("**/*") if ".work" not in str(path))
        text = (
            said.getvalue()
            .replace(str(directory), "DIR")
            .replace(str(out), "OUT")
            .replace(str(directory.parent), "TMP")
        )
        lines = tuple(line for line in text.splitlines() if line and not line.startswith("[transformers]"))
        return Outcome(code, lines, tuple(left))


def _write(directory: Path, case: Case) -> None:
    directory.mkdir()
    for name, content in case.files.items():
        path = directory / name
        if content is None:
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name, target in case.links.items():
        (directory / name).symlink_to(target)


@contextlib.contextmanager
def _captured() -> Iterator[io.StringIO]:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        yield said
