"""A finding of the doctor, and the check that gives it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dualbinary.errors import DualBinaryError

__all__ = ["GOOD", "NOTE", "WRONG", "Finding", "checked"]

GOOD, NOTE, WRONG = "good", "note", "wrong"


@dataclass(frozen=True)
class Finding:
    """What `check` found: good; a note, with which a model runs, but slower or elsewhere; or wrong."""

    check: str
    state: str
    text: str

    def to_dict(self) -> dict[str, Any]:
        """As an object of --json."""
        return {"check": self.check, "state": self.state, "text": self.text}


def checked(check: str, look: Callable[[], str]) -> Finding:
    """The finding of a function that returns a sentence, or raises an error of ours with what is wrong."""
    try:
        return Finding(check, GOOD, look())
    except DualBinaryError as error:
        return Finding(check, WRONG, str(error))
