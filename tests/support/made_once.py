"""Directories that tests of several files read: made by the first that asks, in whichever process it runs."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

__all__ = ["made_once"]


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The directory `name` of this run of the tests, which `make` fills; not to be changed.

    Processes wait for one another. Where `make` fails, the next that asks tries again.
    """
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # a worker's own is below that of the run
    directory = shared / "made_once" / name
    directory.parent.mkdir(exist_ok=True)
    with directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            unfinished = factory.mktemp(name)
            make(unfinished)
            unfinished.rename(directory)
    return directory
