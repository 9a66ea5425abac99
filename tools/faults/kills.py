"""Calibration that is killed at random moments, again and again, must end with the bytes of an uninterrupted run.

For each case: one run to its end, which says what it takes and what it gives. Then runs that SIGKILL ends at a moment
drawn evenly from that time, each going on where the one before was killed, until one gets through; then another series.
Of several processes all are killed, or one, and the others end by themselves or by their launcher's hand.
"""

import random
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL

from tools.faults.calibrations import Calibration
from tools.faults.forked import Ended, start
from tools.faults.outputs import contents, differences, litter

__all__ = ["Kills", "kill_calibration"]

PATIENCE = 15.0  # seconds of a process whose peer is gone
ENOUGH = 40  # kills in a row, after which one run may go on to its end


@dataclass
class Kills:
    """What came of one case: kills, runs that got through, and what was wrong."""

    name: str
    seconds: float = 0.0
    kills: int = 0
    series: int = 0
    wrong: list[str] = field(default_factory=list[str])


def kill_calibration(
    case: Calibration, model: Path, room: Path, kills: int, seed: int, tell: Callable[[str], None] = lambda _: None
) -> Kills:
    """Kill `case` at least `kills` times, in the directory `room`."""
    job = _Job(case, model, room, random.Random(f"{seed} {case.name}"))
    found = Kills(case.name)
    begin = time.monotonic()
    ended = job.run(room / "whole", None)
    found.seconds = time.monotonic() - begin
    if any(one.code for one in ended):
        found.wrong.append(f"uninterrupted: exit codes {[one.code for one in ended]}: {ended[0].errors[-500:]}")
        return found
    wanted = job.outputs(room / "whole")
    out, row = room / "killed", 0
    while found.kills < kills or row:
        moment = None if row >= ENOUGH or found.kills >= kills else job.draw.uniform(0, found.seconds)
        whole_before = out.exists()
        ended = job.run(out, moment)
        killed = sum(one.killed for one in ended)
        if killed:
            found.kills, row = found.kills + 1, row + 1
        found.wrong += _wrong(ended, killed, whole_before)
        if not killed:
            tell(f"{case.name}: {found.kills} kills, {row} in this series")
            found.wrong += [f"differs in {name}" for name in differences(job.outputs(out), wanted)]
            found.wrong += [] if whole_before else [f"left {name}" for name in litter(room)]
            found.series, row = found.series + 1, 0
            for path in room.glob("killed*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


def _wrong(ended: list[Ended], killed: int, whole_before: bool) -> list[str]:
    """What is wrong with how processes ended: each is killed, done, or failed because another one was killed.

    A run that finds its output whole, since its last kill came after that, says so and ends with 2.
    """
    expected = (-SIGKILL,) if killed == len(ended) else (-SIGKILL, 0, 1) if killed else (2,) if whole_before else (0,)
    wrong = [one for one in ended if one.code not in expected]
    return [f"exit code {one.code}: {one.errors[-500:]}" for one in wrong]


class _Job:
    def __init__(self, case: Calibration, model: Path, room: Path, draw: random.Random) -> None:
        self.case, self.model, self.room, self.draw = case, model, room, draw

    def run(self, out: Path, moment: float | None) -> list[Ended]:
        """Run the case, and kill it after `moment` seconds where it still runs then."""
        commands = self.case.commands(self.model, out, _free_port())
        processes = [start(command, self.room / f"log-{rank}") for rank, command in enumerate(commands)]
        if moment is not None and not processes[0].wait(moment):
            victims = self.draw.choice([processes, *([one] for one in processes)])
            for process in victims:
                process.send(SIGKILL)
            for process in processes:
                # One that waits for a peer that never came does so for long; a launcher ends it.
                if not process.wait(PATIENCE):
                    process.send(SIGKILL)
        return [process.end() for process in processes]

    def outputs(self, out: Path) -> dict[str, str]:
        """The checkpoint, and the text that the model wrote."""
        text = out.with_name(out.name + ".generated.safetensors")
        return contents(out) | {"generated": contents(text)["."] if text.exists() else ""}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
