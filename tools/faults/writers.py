"""Commands that write models, and what each needs: export, import, convert, relayout, bundle.

They are made of one tiny model: calibrated without data, exported, converted to GPTQ.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from calib.__main__ import main as calibrate
from dualbinary.bundle.__main__ import main as bundle
from dualbinary.files.systems import System, this_system
from dualbinary.onnx_files.relayout.__main__ import main as relayout
from exporter.__main__ import main as export
from importer.__main__ import main as import_model
from importer.convert.__main__ import main as convert
from runtime_ext.library import library_path
from tools.faults.forked import Command, run

__all__ = ["Material", "Writer", "make_material", "writers"]


@dataclass(frozen=True)
class Material:
    """What commands read."""

    model: Path
    checkpoint: Path
    gptq: Path
    exported: Path
    libraries: Path


@dataclass(frozen=True)
class Writer:
    """A command that writes `out` in a directory of its own; `older` are options that write something else there.

    `replaces` is the option that replaces what is there; None: nothing does. With `beside`, a file that must be there,
    the command is given the directory alone.
    """

    name: str
    main: Callable[[list[str]], int]
    source: Path
    out: str
    options: tuple[str, ...] = ()
    older: tuple[str, ...] = ()
    replaces: str | None = None
    beside: str | None = None

    def prepare(self, directory: Path) -> Path:
        """Make `directory`, with the file `beside` where the command asks for one."""
        directory.mkdir()
        if self.beside is not None:
            (directory / self.beside).touch()
        return directory

    def command(self, directory: Path, *, older: bool = False, replace: bool = False) -> Command:
        """The command that writes into `directory`."""
        words = [directory] if self.beside is not None else [self.source, directory / self.out]
        options = [*self.options, *(self.older if older else ())]
        return Command(self.main, [*words, *options, *([self.replaces] if replace and self.replaces else [])])


def make_material(model: Path, room: Path) -> Material:
    """Make what the writers read, of the full-precision `model`."""
    made = Material(model, room / "checkpoint", room / "gptq", room / "exported" / "model.onnx", room / "libraries")
    form = ["--group-size", "32", "--no-offset", "--levels", "even", "--planes", "4"]
    free = ["--stages", "init", "--init-method", "fit", *form, "--quiet"]
    steps = [
        Command(calibrate, [model, made.checkpoint, *free]),
        Command(convert, [made.checkpoint, made.gptq, "--quiet"]),
        Command(export, [model, made.exported, "--quiet", "--no-check"]),
    ]
    for number, step in enumerate(steps):
        ended = run(step, room / f"material-{number}.log")
        if ended.code:
            raise RuntimeError(f"{step.arguments}: exit code {ended.code}: {ended.errors}")
    made.libraries.mkdir()
    shutil.copyfile(library_path(), made.libraries / _system().file)
    return made


def writers(made: Material) -> tuple[Writer, ...]:
    """All of them."""
    quiet = ("--quiet",)
    export_options = ("--quiet", "--no-check")
    systems = ("--systems", _system().name, "--from", str(made.libraries))
    return (
        Writer("export", export, made.model, "model.onnx", export_options, ("--planes", "2"), "--force"),
        Writer("export of a checkpoint", export, made.checkpoint, "model.onnx", export_options),
        Writer("import", import_model, made.gptq, "checkpoint", quiet),
        Writer("convert to GGUF", convert, made.checkpoint, "model.gguf", quiet, (), "--force"),
        Writer("convert to GPTQ", convert, made.checkpoint, "gptq", quiet),
        Writer("relayout", relayout, made.exported, "model.onnx", ("--layout", "avx2", *quiet), (), "--force"),
        Writer("bundle", bundle, made.model, _system().file, systems, beside="model.onnx"),
    )


def _system() -> System:
    system = this_system()
    assert system is not None  # the harness is for Linux
    return system
