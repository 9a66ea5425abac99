"""Files of a work directory that are cut, flipped, emptied, lost, or of another run: what a resumed run makes of them.

Expected: the bytes of an undamaged run, or one sentence with the way out and exit code 2. Never another result.
"""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tools.faults.calibrations import Calibration
from tools.faults.forked import Command, run
from tools.faults.operations import killed_at
from tools.faults.outputs import contents, differences

__all__ = ["Damage", "damage_work"]

STEP = 3  # changes of files between the kills that look for a run in its middle
WAYS_OUT = ("--fresh", "remove it", "move it away")


@dataclass
class Damage:
    """What came of one case: files damaged, runs that were refused, and what was wrong."""

    name: str
    tried: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list[str])


def damage_work(case: Calibration, model: Path, room: Path, seed: int) -> Damage:
    """Damage every file of the work of `case`, kept after its end and in its middle, in every way."""
    found, draw, log = Damage(case.name), random.Random(f"{seed} {case.name}"), room / "log"

    def command(out: Path, *extra: str) -> Command:
        return case.commands(model, out, 0, extra)[0]

    ended = run(command(room / "whole", "--keep-work"), log)
    if ended.code:
        found.wrong.append(f"undamaged: exit code {ended.code}: {ended.errors[-500:]}")
        return found
    wanted = contents(room / "whole")
    run(command(room / "other", "--keep-work", "--seed", "4"), log)
    stopped = [_stopped(room / name, command, log, number) for name, number in (("half", "3"), ("else", "4"))]
    for work, other in ((room / "whole.work", room / "other.work"), stopped):
        for file in sorted(path for path in work.rglob("*") if path.is_file() and path.name != "lock"):
            name = str(file.relative_to(work))
            for how, damage in WAYS.items():
                out = room / "out"
                for left in room.glob("out*"):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
                shutil.copytree(work, room / "out.work")
                if not damage(room / "out.work" / name, other / name, draw):
                    continue
                found.tried += 1
                ended = run(command(out), log)
                same = ended.code == 0 and contents(out) == wanted
                found.refused += ended.code == 2
                if same or (ended.code == 2 and not out.exists() and _is_clear(ended.errors)):
                    continue
                what = differences(contents(out), wanted) if out.exists() else ""
                found.wrong.append(f"{work.name}/{name} {how}: exit code {ended.code}, {what}: {ended.errors[-400:]}")
    return found


def _stopped(out: Path, command: Callable[..., Command], log: Path, seed: str) -> Path:
    """The work of a run that was killed while it had a block done and hidden states of the next one."""
    work = out.with_name(out.name + ".work")
    for number in range(0, 1000, STEP):
        shutil.rmtree(work, ignore_errors=True)
        whole = command(out, "--seed", seed)
        run(replace(whole, main=killed_at(whole.main, number, out.parent)), log)
        if (work / "block-000.safetensors").exists() and len(list((work / "streams").glob("*-1.f32"))) == 2:
            break
    return work


def _is_clear(errors: str) -> bool:
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    return len(lines) == 1 and any(way in lines[0] for way in WAYS_OUT) and "Traceback" not in errors


def _cut(file: Path, other: Path, draw: random.Random) -> bool:
    content = file.read_bytes()
    file.write_bytes(content[: draw.randrange(max(1, len(content)))])
    return True


def _flip(file: Path, other: Path, draw: random.Random) -> bool:
    content = bytearray(file.read_bytes())
    place = draw.randrange(len(content))
    content[place] ^= 1 << draw.randrange(8)
    file.write_bytes(content)
    return True


def _flip_last(file: Path, other: Path, draw: random.Random) -> bool:
    """In the last of the tensors, past all headers."""
    content = bytearray(file.read_bytes())
    content[-40 if len(content) > 40 else -1] ^= 1
    file.write_bytes(content)
    return True


def _empty(file: Path, other: Path, draw: random.Random) -> bool:
    file.write_bytes(b"")
    return True


def _lose(file: Path, other: Path, draw: random.Random) -> bool:
    file.unlink()
    return True


def _exchange(file: Path, other: Path, draw: random.Random) -> bool:
    if not other.exists():
        return False
    shutil.copyfile(other, file)
    return True


WAYS: dict[str, Callable[[Path, Path, random.Random], bool]] = {
    "cut": _cut,
    "with a bit flipped": _flip,
    "with a bit flipped near its end": _flip_last,
    "empty": _empty,
    "lost": _lose,
    "of another run": _exchange,
}
