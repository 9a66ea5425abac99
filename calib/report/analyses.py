"""Analyses that need the full-precision model and text, kept beside the record: OUT_DIR/analyses.json.

{"version": 1, "dualbinary": release, "text": {"files", "windows", "length"},
 "preference": what calib.report.preference returns, "landscape": what calib.report.landscape returns}
"""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from calib.report.files import MAX_NUMBER, Count, Part, read_checked, write_checked

__all__ = ["AFTER", "ANALYSES_FILE", "ANALYSES_VERSION", "BEFORE", "read_analyses", "write_analyses"]

ANALYSES_FILE = "analyses.json"
ANALYSES_VERSION = 1
BEFORE, AFTER = "before", "after"  # names of the checkpoints

Number = Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Classes = Annotated[list[Annotated[float, Field(ge=0, le=1.001)]], Field(min_length=3, max_length=3)]  # rounded sums


class _PreferenceFigures(Part):
    positions: Count
    target: Classes | None
    teacher_argmax: Classes | None
    student_argmax: Classes | None
    teacher_mass: Classes | None
    student_mass: Classes | None
    teacher_entropy: Number | None
    kl: Number | None


class _Balance(Part):
    argmax: Number | None
    mass: Number | None
    nll: Number | None


class _Table(Part):
    class_tokens: dict[Literal["head", "mid", "tail"], Count]
    quartiles: Annotated[list[_PreferenceFigures], Field(min_length=4, max_length=4)]
    all: _PreferenceFigures
    balance: _Balance


class _Preference(Part):
    tokens: Count
    models: Annotated[dict[Literal["before", "after"], _Table], Field(min_length=1)]


class _Valley(Part):
    parameters: Annotated[list[Annotated[str, Field(pattern="^[a-z0-9]+$")]], Field(min_length=2, max_length=2)]
    losses: list[list[Number]]
    rise: Number


class _Landscape(Part):
    layer: str
    tokens: Count
    factors: Annotated[list[Number], Field(min_length=3)]
    full_precision: Number
    formats: Annotated[dict[Literal["binary", "uniform", "fdb"], _Valley], Field(min_length=1)]

    @model_validator(mode="after")
    def _square(self) -> "_Landscape":
        count = len(self.factors)
        if any(left >= right for left, right in pairwise(self.factors)):
            raise ValueError("factors: expected ascending ones")
        for name, valley in self.formats.items():
            if [len(row) for row in valley.losses] != [count] * count:
                raise ValueError(f"{name}: expected {count} x {count} losses")
        return self


class _Text(Part):
    files: list[str]
    windows: Count
    length: Count


class _Analyses(Part):
    version: Literal[1]
    dualbinary: str
    text: _Text
    preference: _Preference
    landscape: _Landscape


def read_analyses(directory: Path) -> dict[str, Any] | None:
    """The analyses of the checkpoint in `directory`; None where there are none. Raises InputError for damaged ones."""
    file = directory / ANALYSES_FILE
    return read_checked(file, _Analyses, ANALYSES_VERSION) if file.exists() else None


def write_analyses(directory: Path, value: dict[str, Any]) -> None:
    """Put analyses beside the record, whole or not at all. Raises InputError where something is missing or wrong."""
    write_checked(directory / ANALYSES_FILE, _Analyses, value)
