"""The kinds of faults, and how each is run over its cases; imported before anything is forked."""

import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import transformers.models.llama.modeling_llama  # noqa: F401  # what children would else import one by one

import calib.pipeline
import exporter.pipeline  # noqa: F401
from tests.support.tiny_models import make_model
from tools.faults.calibrations import CASES
from tools.faults.crashes import crash_writer
from tools.faults.forked import Command, run
from tools.faults.kills import kill_calibration
from tools.faults.writers import make_material, writers

__all__ = ["run_kinds"]

Row = dict[str, Any]


def run_kinds(kinds: Iterable[str], room: Path, kills: int, seed: int, only: str) -> list[Row]:
    """Run `kinds` in the directory `room`; a row for each case."""
    ways: dict[str, Callable[..., list[Row]]] = {"kills": _kills, "crashes": _crashes}
    rows = []
    for kind in kinds:
        place = room / kind
        place.mkdir()
        rows += [{"kind": kind, **row} for row in ways[kind](place, kills, seed, only)]
    return rows


def _kills(room: Path, kills: int, seed: int, only: str) -> list[Row]:
    model = tiny_model(room / "model")
    cases = [case for case in CASES if only in case.name]
    rows = []
    for case in cases:
        place = room / case.name.replace(" ", "-")
        place.mkdir()
        found = kill_calibration(case, model, place, -(-kills // len(cases)), seed, _tell)
        outcome = f"{found.series} runs got through, all bytes the same; {found.seconds:.1f} s uninterrupted"
        if found.wrong:
            outcome = f"WRONG: {found.wrong[:5]}"
        rows.append({"name": case.name, "tried": found.kills, "outcome": outcome, "wrong": found.wrong})
    return rows


def _crashes(room: Path, kills: int, seed: int, only: str) -> list[Row]:
    made = make_material(tiny_model(room / "model"), room)
    chosen = [writer for writer in writers(made) if only in writer.name]
    rows = []
    for writer in chosen:
        place = room / writer.name.replace(" ", "-")
        place.mkdir()
        found = crash_writer(writer, place, -(-kills // len(chosen)), seed)
        _tell(f"{writer.name}: {found.kills} kills, {len(found.wrong)} wrong")
        outcome = f"WRONG: {found.wrong[:5]}" if found.wrong else "none or whole at once, the same bytes again"
        rows.append({"name": writer.name, "tried": found.kills, "outcome": outcome, "wrong": found.wrong})
    return rows


def tiny_model(directory: Path) -> Path:
    """The tiny Llama of the tests, made by a child: this process must not start threads."""

    def main(words: list[str]) -> int:
        make_model("llama", Path(words[0]))
        return 0

    run(Command(main, [directory]), directory.with_name("model.log"))
    return directory


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
