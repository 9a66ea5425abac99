"""A model of another tool as a checkpoint, which the importer makes in a child process, as packages stay apart."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dualbinary import DualBinaryError
from dualbinary.checkpoint import quantized_by
from dualbinary.files.model_files import CONFIG_FILE
from dualbinary.files.staging import scratch

__all__ = ["imported", "needs_import"]


def needs_import(source: Path) -> bool:
    """Tell if `source` is a file, or a directory whose config.json says that another tool quantized it.

    Raises InputError where config.json cannot be read.
    """
    return source.is_file() or ((source / CONFIG_FILE).is_file() and quantized_by(source) is not None)


@contextmanager
def imported(source: Path, directory: Path, *, requantize: bool, quiet: bool) -> Iterator[tuple[Path, list[str]]]:
    """Yield a checkpoint of `source` and what the importer had to say; it lies in `directory` until the block ends.

    Ends this process with the importer's exit code where it fails: it has said why. Raises DualBinaryError where
    something ended it.
    """
    with scratch(directory) as place:
        checkpoint = place / source.stem
        words = [sys.executable, "-m", "importer", str(source), str(checkpoint), "--json"]
        words += ["--requantize"] if requantize else []
        words += ["--quiet"] if quiet else []
        done = subprocess.run(words, check=False, stdout=subprocess.PIPE, text=True)
        if done.returncode < 0:
            raise DualBinaryError(f"python -m importer was ended by signal {-done.returncode}; is memory short?")
        if done.returncode:
            sys.exit(done.returncode)
        yield checkpoint, json.loads(done.stdout)["notes"]
