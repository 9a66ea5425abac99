"""Ctrl-C and SIGTERM at random moments: exit code 130 or 143, one line that says what is kept, nothing half written.

After that the same command goes on, to the bytes of a run that nobody interrupted. No process stays behind.
"""

import os
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tools.faults.forked import NOT_BEGUN, Command, Ended, run, start
from tools.faults.outputs import contents, differences, litter

__all__ = ["Interrupts", "interrupt"]

LINES = {130: "interrupted", 143: "terminated"}


@dataclass
class Interrupts:
    """What came of one command: how often a signal ended it, and what was wrong."""

    name: str
    ended: int = 0
    wrong: list[str] = field(default_factory=list[str])


def interrupt(
    name: str, command_in: Callable[[Path], Command], room: Path, times: int, seed: int, *, resumes: bool = False
) -> Interrupts:
    """Send a signal to the command that writes into a directory, `times` times; one that `resumes` keeps its work."""
    found, log, draw = Interrupts(name), room / "log", random.Random(f"{seed} {name}")
    whole, place = room / "whole", room / "place"
    whole.mkdir()
    ended = run(command_in(whole), log)
    if ended.code:
        found.wrong.append(f"uninterrupted: exit code {ended.code}: {ended.errors[-500:]}")
        return found
    wanted, seconds = contents(whole), ended.seconds
    for _ in range(times):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        number, moment = draw.choice((signal.SIGINT, signal.SIGTERM)), draw.uniform(0, seconds)
        ended, orphans = _signaled(command_in(place), log, number, moment)
        words = f"{number.name} after {moment:.2f} s"
        if ended.code in (0, NOT_BEGUN, -signal.SIGTERM):  # done, or the command had not begun to listen
            continue
        found.ended += 1
        found.wrong += [f"{words}: {line}" for line in _faults(ended, number, orphans)]
        if not resumes:
            left = contents(place)
            found.wrong += [f"{words}: left {differences(left, {})}"] if left not in ({}, wanted) else []
            found.wrong += [f"{words}: left {each}" for each in litter(place)]
        again = run(command_in(place), log)
        if again.code not in (0, 2) or contents(place) != wanted:
            found.wrong.append(f"{words}, again: {again.code}, {differences(contents(place), wanted)}")
    return found


def _signaled(command: Command, log: Path, number: int, moment: float) -> tuple[Ended, bool]:
    process = start(command, log)
    if not process.wait(moment):
        process.send(number)
    ended = process.end()
    return ended, _session_lives(process.pid)


def _session_lives(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


def _faults(ended: Ended, number: int, orphans: bool) -> list[str]:
    code = 128 + number
    lines = [line for line in ended.errors.splitlines() if line.startswith(LINES[code])]
    wrong = [] if ended.code == code else [f"exit code {ended.code}"]
    wrong += [] if len(lines) == 1 else [f"{len(lines)} lines"]
    wrong += ["a traceback"] if "Traceback" in ended.errors else []
    wrong += ["a process stays"] if orphans else []
    return [f"{', '.join(wrong)}: {ended.errors[-600:]}"] if wrong else []
