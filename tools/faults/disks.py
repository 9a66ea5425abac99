"""Disks that fill up at every stage of what is written, that cannot be written, and directories that go away.

Expected: one sentence that names a file and the way out, exit code 1 or 2, nothing half written at the place of the
output, older output as it was; and the same command goes on once there is room, to the bytes of a run that had it.
"""

import contextlib
import random
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tools.faults.calibrations import Calibration
from tools.faults.forked import Command, Ended, run, start
from tools.faults.outputs import contents, differences, litter
from tools.faults.small_disk import small_disk
from tools.faults.writers import Writer

__all__ = ["Disks", "fill_for_calibration", "fill_for_writer", "vanish"]

PLENTY = 256 << 20
FILE_LIMITS = (1 << 13, 1 << 14, 1 << 16)  # bytes of a file at most; what a command says goes to a file as well


@dataclass
class Disks:
    """What came of a command: how often it ran out of room, and what was wrong."""

    name: str
    full: int = 0
    wrong: list[str] = field(default_factory=list[str])

    def note(self, moment: str, ended: Ended) -> bool:
        """Look at how a command ended that may have had no room; True where it had none."""
        if ended.code == 0:
            return False
        self.full += 1
        self.wrong += [f"{moment}: {line}" for line in sentence_faults(ended)]
        return True


def sentence_faults(ended: Ended, codes: tuple[int, ...] = (1, 2)) -> list[str]:
    """What is wrong with how a command says that it failed: expected one sentence, with a way out."""
    lines = [line for line in ended.errors.splitlines() if line.startswith("error: ")]
    wrong = [] if ended.code in codes else [f"exit code {ended.code}"]
    wrong += [] if len(lines) == 1 else [f"{len(lines)} error lines"]
    wrong += ["a traceback"] if "Traceback" in ended.errors else []
    wrong += [] if not lines or "/" in lines[-1] else ["no file is named"]
    return [f"{', '.join(wrong)}: {ended.errors[-400:]}"] if wrong else []


def fill_for_calibration(case: Calibration, model: Path, room: Path, sizes: list[int]) -> Disks:
    """Run `case` on disks of `sizes` bytes, and go on with more of it."""
    found = Disks(case.name)
    log = room / "log"
    (whole,) = case.commands(model, room / "whole", 0)
    run(whole, log)
    wanted = contents(room / "whole")
    for size in sizes:
        with small_disk(room / "disk", size) as disk:
            out = disk.path / "out"
            (command,) = case.commands(model, out, 0)
            full = found.note(f"{size} bytes", run(command, log))
            if full and out.exists():
                found.wrong.append(f"{size} bytes: there is output")
            disk.resize(PLENTY)
            ended = run(command, log) if full else Ended(0, "", 0)
            other = differences(contents(out), wanted) if ended.code == 0 else []
            if ended.code or other:
                found.wrong.append(f"{size} bytes, then plenty: {ended.code}, {other}: {ended.errors[-400:]}")
            found.wrong += [f"{size} bytes: left {name}" for name in litter(disk.path)]
    return found


def fill_for_writer(writer: Writer, room: Path, sizes: list[int]) -> Disks:
    """Run `writer` on disks of `sizes` bytes and with limits of a file's size, over older output where it has some."""
    found = Disks(writer.name)
    log = room / "log"
    run(writer.command(writer.prepare(room / "whole")), log)
    wanted = contents(room / "whole")
    tries = [(f"disk of {size} bytes", size, None) for size in sizes]
    tries += [(f"files of {limit} bytes", PLENTY, limit) for limit in FILE_LIMITS]
    for moment, size, limit in tries:
        with small_disk(room / "disk", PLENTY) as disk:
            place = writer.prepare(disk.path / "place")
            if writer.older:
                run(writer.command(place, older=True), log)
            before = contents(place)
            used = sum(file.stat().st_blocks * 512 for file in place.iterdir())
            disk.resize(size + used)
            command = writer.command(place, replace=bool(writer.older))
            limits = None if limit is None else {resource.RLIMIT_FSIZE: limit}
            full = found.note(moment, run(Command(command.main, command.arguments, limits=limits), log))
            if full and contents(place) != before:
                found.wrong.append(f"{moment}: not as before: {differences(contents(place), before)}")
            disk.resize(PLENTY)
            ended = run(command, log) if full else Ended(0, "", 0)
            if ended.code or contents(place) != wanted:
                other = differences(contents(place), wanted)
                found.wrong.append(f"{moment}, then plenty: {ended.code}, {other}: {ended.errors[-400:]}")
    return found


def vanish(name: str, command_in: Callable[[Path], Command], room: Path, times: int, seed: int) -> Disks:
    """Take the directory away that a command writes into, make it a file, or its disk read-only, at random moments."""
    found, log, draw = Disks(name), room / "log", random.Random(f"{seed} {name}")
    place = room / "disk" / "place"
    (room / "whole").mkdir()
    most = run(command_in(room / "whole"), log).seconds
    command = command_in(place)
    for _ in range(times):
        seconds = draw.uniform(0, most)
        for way in ("removed", "a file", "read-only"):
            with small_disk(place.parent, PLENTY) as disk, contextlib.suppress(FileNotFoundError):
                place.mkdir()
                process = start(command, log)
                if not process.wait(seconds):
                    if way == "read-only":
                        with contextlib.suppress(Exception):  # refused while a file is open for writing
                            disk.read_only()
                    else:
                        shutil.rmtree(place, ignore_errors=True)
                    if way == "a file":
                        with contextlib.suppress(OSError):
                            place.touch()
                ended = process.end()
                if ended.code == -signal.SIGALRM:
                    found.wrong.append(f"{way} after {seconds:.1f} s: hangs")
                found.note(f"{way} after {seconds:.1f} s", ended)
    return found
