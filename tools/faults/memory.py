"""Commands that get no more memory after their start than a few megabytes.

Expected: exit code 1 and one sentence that says so, nothing half written; or the same bytes. A library that ends the
process itself is told apart: no Python code has a say there, and what matters is that no half output is left.
"""

import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tools.faults.forked import Command, Ended, run
from tools.faults.outputs import contents, differences

__all__ = ["LIMITS", "Starved", "starve"]

MB = 1 << 20
LIMITS = (1 * MB, 4 * MB, 8 * MB, 16 * MB, 32 * MB, 64 * MB, 128 * MB, 256 * MB)  # beyond what the command begins with


@dataclass
class Starved:
    """What came of a command: how often it had too little, how often a library ended it, and what was wrong."""

    name: str
    refused: int = 0
    ended: int = 0
    wrong: list[str] = field(default_factory=list[str])


def starve(name: str, command_in: Callable[[Path], Command], room: Path) -> Starved:
    """Run the command that writes into a directory with each of LIMITS; then once more with all memory."""
    found, log = Starved(name), room / "log"
    whole, place = room / "whole", room / "place"
    whole.mkdir()
    ended = run(command_in(whole), log)
    if ended.code:
        found.wrong.append(f"with all memory: exit code {ended.code}: {ended.errors[-500:]}")
        return found
    wanted = contents(whole)
    for limit in LIMITS:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        command = command_in(place)
        ended = run(Command(command.main, command.arguments, limits={resource.RLIMIT_AS: _mapped() + limit}), log)
        moment = f"{limit // MB} MB"
        found.wrong += [f"{moment}: {line}" for line in _faults(ended)]
        found.refused += ended.code == 1
        found.ended += ended.code < 0
        if ended.code:
            ended = run(command_in(place), log)
        if ended.code not in (0, 2) or contents(place) != wanted:
            found.wrong.append(f"{moment}, then all: {ended.code}, {differences(contents(place), wanted)}")
    return found


def _faults(ended: Ended) -> list[str]:
    """What is wrong with how a command ended that had little memory."""
    if ended.code == 0 or ended.code < 0:
        return []
    lines = [line for line in ended.errors.splitlines() if line.startswith("error: ")]
    wrong = [] if ended.code == 1 else [f"exit code {ended.code}"]
    wrong += [] if len(lines) == 1 and "not enough memory" in lines[0] else [f"lines {lines}"]
    wrong += ["a traceback"] if "Traceback" in ended.errors else []
    return [f"{', '.join(wrong)}: {ended.errors[-600:]}"] if wrong else []


def _mapped() -> int:
    """Bytes of address space that this process has, and a child begins with."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
