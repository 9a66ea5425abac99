"""A model of another tool as a checkpoint, which the importer makes in a child process, as packages stay apart."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dualbinary import DualBinaryError
from dualbinary.architectures.refused import refuse_type
from dualbinary.checkpoint import quantized_by
from dualbinary.checkpoint.text_part import read_config
from dualbinary.errors import OptionError
from dualbinary.files.model_files import CONFIG_FILE
from dualbinary.files.staging import check_output, scratch
from exporter.early_checks import FORMAT, output_names, refuse_length, stated_context
from exporter.options import ExportOptions

__all__ = ["imported", "needs_import", "refuse_import"]


def needs_import(source: Path) -> bool:
    """Tell if `source` is a file, or a directory whose config.json says that another tool quantized it.

    Raises InputError where config.json cannot be read.
    """
    return source.is_file() or ((source / CONFIG_FILE).is_file() and quantized_by(source) is not None)


def refuse_import(source: Path, out: Path, options: ExportOptions, libraries: Sequence[str], *, force: bool) -> None:
    """Raise InputError for what the export of the checkpoint would refuse, as far as it is known without importing.

    `libraries` are the names of those that the export copies.
    """
    given = [name for name in FORMAT if getattr(options, name) is not None]
    if given:
        expected = f"no value for {source}, which becomes a checkpoint that is exported as it is stored"
        hint = f"leave out {', '.join(f'{{{name}}}' for name in given)}"
        raise OptionError(given[0], expected, getattr(options, given[0]), hint)
    check_output(out, output_names(out, options, libraries), force=force, model_dir=source)
    if source.is_dir():
        config = read_config(source)
        refuse_length(stated_context(config), options)
        refuse_type(str(config.get("model_type")))


@contextmanager
def imported(source: Path, directory: Path, *, requantize: bool, quiet: bool) -> Iterator[tuple[Path, list[str]]]:
    """Yield a checkpoint of `source` and what the importer had to say; it lies in `directory` until the block ends.

    Ends this process with the importer's exit code where it fails: it has said why. Raises DualBinaryError where
    something ended it.
    """
    with scratch(directory) as place:
        checkpoint = place / source.resolve().stem  # "." and ".." are no names
        words = [sys.executable, "-m", "importer", str(source), str(checkpoint), "--json"]
        words += ["--requantize"] if requantize else []
        words += ["--quiet"] if quiet else []
        done = subprocess.run(words, check=False, stdout=subprocess.PIPE, text=True)
        if done.returncode < 0:
            raise DualBinaryError(f"python -m importer was ended by signal {-done.returncode}; is memory short?")
        if done.returncode:
            sys.exit(done.returncode)
        yield checkpoint, json.loads(done.stdout)["notes"]
