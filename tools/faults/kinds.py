"""The kinds of faults, and how each is run over its cases; imported before anything is forked."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers.models.llama.modeling_llama  # noqa: F401  # what children would else import one by one

import exporter.pipeline  # noqa: F401
from tests.support import tiny_sessions
from tools.faults.calibrations import CASES, Calibration
from tools.faults.crashes import crash_writer
from tools.faults.damage import damage_work
from tools.faults.disks import fill_for_calibration, fill_for_writer, vanish
from tools.faults.forked import Command, run
from tools.faults.interrupts import interrupt
from tools.faults.kills import kill_calibration
from tools.faults.memory import LIMITS, starve
from tools.faults.small_disk import can_mount
from tools.faults.writers import make_material, writers

__all__ = ["run_kinds"]

Row = dict[str, Any]
KB = 1 << 10
CALIBRATION_DISKS = [16 * KB, 64 * KB, 128 * KB, 256 * KB, 320 * KB, 384 * KB, 512 * KB, 768 * KB]
DAMAGED = ("tables", "keep", "quick")  # which have a result of each kind between them
WRITER_DISKS = [4 * KB, 8 * KB, 64 * KB, 256 * KB, 512 * KB]


@dataclass(frozen=True)
class Asked:
    """How often commands are killed, from which seed moments are drawn, and which cases."""

    kills: int
    seed: int
    only: str = ""
    every: int = 1

    def chosen(self, cases: Iterable[Any]) -> list[Any]:
        """Those of `cases` whose name has the word in it."""
        return [case for case in cases if self.only in case.name]


def run_kinds(kinds: Iterable[str], room: Path, asked: Asked) -> list[Row]:
    """Run `kinds` in the directory `room`; a row for each case."""
    ways = {"kills": _kills, "crashes": _crashes, "disks": _disks, "damage": _damage, "memory": _memory}
    ways |= {"interrupts": _interrupts, "gone": _gone}
    rows = []
    for kind in kinds:
        place = room / kind
        place.mkdir()
        rows += [{"kind": kind, **row} for row in ways[kind](place, asked)]
    return rows


def _kills(room: Path, asked: Asked) -> list[Row]:
    model = tiny_model(room / "model")
    cases = asked.chosen(CASES)
    rows = []
    for case in cases:
        place = room / case.name.replace(" ", "-")
        place.mkdir()
        found = kill_calibration(case, model, place, -(-asked.kills // len(cases)), asked.seed, _tell)
        outcome = f"{found.series} runs got through, all bytes the same; {found.seconds:.1f} s uninterrupted"
        if found.wrong:
            outcome = f"WRONG: {found.wrong[:5]}"
        rows.append({"name": case.name, "tried": found.kills, "outcome": outcome, "wrong": found.wrong})
    return rows


def _crashes(room: Path, asked: Asked) -> list[Row]:
    made = make_material(tiny_model(room / "model"), room)
    chosen = asked.chosen(writers(made))
    rows = []
    for writer in chosen:
        place = room / writer.name.replace(" ", "-")
        place.mkdir()
        found = crash_writer(writer, place, -(-asked.kills // len(chosen)), asked.seed, every=asked.every)
        _tell(f"{writer.name}: {found.kills} kills, {len(found.wrong)} wrong")
        outcome = f"WRONG: {found.wrong[:5]}" if found.wrong else "none or whole at once, the same bytes again"
        rows.append({"name": writer.name, "tried": found.kills, "outcome": outcome, "wrong": found.wrong})
    return rows


def _disks(room: Path, asked: Asked) -> list[Row]:
    if not can_mount():
        return [{"name": "all", "tried": 0, "outcome": "not here: mounting a disk takes root", "wrong": []}]
    made = make_material(tiny_model(room / "model"), room)
    rows: list[Row] = []
    for case in asked.chosen([CASES[0], *writers(made)]):
        place = room / case.name.replace(" ", "-")
        place.mkdir()
        if isinstance(case, Calibration):
            found = fill_for_calibration(case, made.model, place, CALIBRATION_DISKS)
        else:
            found = fill_for_writer(case, place, WRITER_DISKS)
        _tell(f"{case.name}: {found.full} times full, {len(found.wrong)} wrong")
        outcome = f"WRONG: {found.wrong[:5]}" if found.wrong else "one sentence; the same bytes once there was room"
        rows.append({"name": case.name, "tried": found.full, "outcome": outcome, "wrong": found.wrong})
    return rows


def _commands(room: Path, asked: Asked) -> dict[str, Callable[[Path], Command]]:
    """Commands by name, each as a function of the directory that it writes into."""
    made = make_material(tiny_model(room / "model"), room)
    calibration = CASES[0]
    commands = {f"calib {calibration.name}": lambda place: calibration.commands(made.model, place / "out", 0)[0]}
    commands |= {writer.name: writer.command for writer in writers(made) if writer.beside is None}
    return {name: command for name, command in commands.items() if asked.only in name}


def _interrupts(room: Path, asked: Asked) -> list[Row]:
    chosen = _commands(room, asked)
    rows: list[Row] = []
    for name, command in chosen.items():
        place = room / name.replace(" ", "-")
        place.mkdir()
        times = -(-asked.kills // len(chosen))
        found = interrupt(name, command, place, times, asked.seed, resumes=name.startswith("calib"))
        _tell(f"{name}: {found.ended} signals, {len(found.wrong)} wrong")
        outcome = f"WRONG: {found.wrong[:5]}" if found.wrong else "130 or 143, one line; the same bytes again"
        rows.append({"name": name, "tried": found.ended, "outcome": outcome, "wrong": found.wrong})
    return rows


def _memory(room: Path, asked: Asked) -> list[Row]:
    rows: list[Row] = []
    for name, command in _commands(room, asked).items():
        place = room / name.replace(" ", "-")
        place.mkdir()
        found = starve(name, command, place)
        _tell(f"{name}: {found.refused} refused, {found.ended} ended, {len(found.wrong)} wrong")
        outcome = f"{found.refused} said so, {found.ended} ended by a library, all others the same bytes"
        outcome = f"WRONG: {found.wrong[:5]}" if found.wrong else outcome
        rows.append({"name": name, "tried": len(LIMITS), "outcome": outcome, "wrong": found.wrong})
    return rows


def _gone(room: Path, asked: Asked) -> list[Row]:
    if not can_mount():
        return [{"name": "all", "tried": 0, "outcome": "not here: mounting a disk takes root", "wrong": []}]
    rows: list[Row] = []
    chosen = _commands(room, asked)
    for name, command in chosen.items():
        place = room / name.replace(" ", "-")
        place.mkdir()
        found = vanish(name, command, place, -(-asked.kills // len(chosen) // 3), asked.seed)
        _tell(f"{name}: {found.full} failed, {len(found.wrong)} wrong")
        outcome = f"WRONG: {found.wrong[:5]}" if found.wrong else "one sentence"
        rows.append({"name": name, "tried": found.full, "outcome": outcome, "wrong": found.wrong})
    return rows


def _damage(room: Path, asked: Asked) -> list[Row]:
    model = tiny_model(room / "model")
    rows: list[Row] = []
    for case in asked.chosen(case for case in CASES if case.name in DAMAGED):
        place = room / case.name
        place.mkdir()
        found = damage_work(case, model, place, asked.seed)
        _tell(f"{case.name}: {found.tried} files damaged, {len(found.wrong)} wrong")
        outcome = f"{found.refused} refused with the way out, all others the same bytes"
        outcome = f"WRONG: {found.wrong[:5]}" if found.wrong else outcome
        rows.append({"name": case.name, "tried": found.tried, "outcome": outcome, "wrong": found.wrong})
    return rows


def tiny_model(directory: Path) -> Path:
    """The tiny Llama of the tests with its tokenizer, made by a child: this process must not start threads."""

    def main(words: list[str]) -> int:
        made = tiny_sessions.make_weights(Path(words[0]))
        tiny_sessions.make_tokenizer().save(str(made / "tokenizer.json"))
        names = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": tiny_sessions.END}
        tiny_sessions.write_json(made / "tokenizer_config.json", names)
        return 0

    run(Command(main, [directory]), directory.with_name("model.log"))
    return directory


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
