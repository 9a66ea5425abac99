"""A command that writes a model is killed before each of its changes of files, and at random moments.

After every kill: what is at the place of the output is whole, or there is none; older output is as it was, or comes
back as soon as any command looks at the directory; and the same command again gives the bytes that it gives alone.
"""

import random
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from signal import SIGKILL

from tools.faults.forked import Command, Ended, run, start
from tools.faults.operations import killed_at
from tools.faults.outputs import contents, differences, litter
from tools.faults.writers import Writer

__all__ = ["Crashes", "crash_writer"]


@dataclass
class Crashes:
    """What came of one writer: kills, and what was wrong."""

    name: str
    kills: int = 0
    wrong: list[str] = field(default_factory=list[str])


def crash_writer(writer: Writer, room: Path, kills: int, seed: int, *, every: int = 1) -> Crashes:
    """Kill `writer` before each change of files, or each one of `every`, and `kills` times at random moments."""
    job = _Job(writer, room)
    found = Crashes(writer.name)
    ended = run(writer.command(writer.prepare(room / "whole")), job.log)
    if ended.code:
        found.wrong.append(f"uninterrupted: exit code {ended.code}: {ended.errors[-500:]}")
        return found
    job.wanted = contents(room / "whole")
    if writer.older:
        run(writer.command(writer.prepare(room / "older"), older=True), job.log)
        job.older = contents(room / "older")
    for replacing in (False, True) if writer.older else (False,):
        number = 0
        while job.crash(found, replacing, number=number):
            number += every
    draw = random.Random(f"{seed} {writer.name}")
    for _ in range(kills):
        job.crash(found, bool(writer.older), seconds=draw.uniform(0, ended.seconds))
    return found


class _Job:
    def __init__(self, writer: Writer, room: Path) -> None:
        self.writer, self.room, self.log = writer, room, room / "log"
        self.wanted: dict[str, str] = {}
        self.older: dict[str, str] = {}

    def crash(self, found: Crashes, replacing: bool, *, number: int | None = None, seconds: float = 0.0) -> bool:
        """Kill the command at a change or after some time, and look; False where it got through."""
        place = self.room / "place"
        shutil.rmtree(place, ignore_errors=True)
        if replacing:
            shutil.copytree(self.room / "older", place)
        else:
            self.writer.prepare(place)
        before = self._visible(place)
        ended = self._killed(self.writer.command(place, replace=replacing), place, number, seconds)
        moment = f"{'replacing, ' if replacing else ''}killed at {f'{seconds:.2f} s' if number is None else number}"
        if ended.code == -SIGKILL:
            found.kills += 1
            found.wrong += [f"{moment}: {line}" for line in self._left(place, before)]
            found.wrong += [f"{moment}: {line}" for line in self._again(place, before, replacing)]
        elif ended.code:
            found.wrong.append(f"{moment}: exit code {ended.code}: {ended.errors[-500:]}")
        return ended.code == -SIGKILL

    def _killed(self, command: Command, place: Path, number: int | None, seconds: float) -> Ended:
        if number is not None:
            return run(replace(command, main=killed_at(command.main, number, place)), self.log)
        process = start(command, self.log)
        if not process.wait(seconds):
            process.send(SIGKILL)
        return process.end()

    def _visible(self, place: Path) -> dict[str, str]:
        """The files that are no temporary ones."""
        return {name: digest for name, digest in contents(place).items() if not name.startswith(".")}

    def _left(self, place: Path, before: dict[str, str]) -> list[str]:
        """What is wrong with what a killed command left, as one sees it who takes the output now."""
        visible = self._visible(place)
        output = place / self.writer.out
        if visible in (before, self.wanted) or not output.exists():
            return []
        return [f"the output is neither the older one nor whole: {differences(visible, self.wanted)}"]

    def _again(self, place: Path, before: dict[str, str], replacing: bool) -> list[str]:
        """What is wrong after the same command again: without leave to replace, then with it."""
        wrong = []
        if replacing:
            ended = run(self.writer.command(place), self.log)
            visible = self._visible(place)
            if ended.code != 2 or visible not in (before, self.wanted):
                other = differences(visible, before)
                wrong.append(f"older output did not come back: exit code {ended.code}, {other}: {ended.errors[-300:]}")
        ended = run(self.writer.command(place, replace=replacing), self.log)
        done = ended.code == 0 or (ended.code == 2 and not replacing)  # whole since before the kill
        if not done or self._visible(place) != self.wanted:
            other = differences(self._visible(place), self.wanted)
            wrong.append(f"again: exit code {ended.code}, {other}: {ended.errors[-300:]}")
        if ended.code == 0:
            wrong += [f"left {name}" for name in litter(place)]
        return wrong
