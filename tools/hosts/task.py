"""What every host is asked, and what it answers."""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

__all__ = ["Host", "NotHereError", "Task", "host_of"]


class NotHereError(Exception):
    """This machine cannot run the host; the message says what it lacks and how to get it."""


@dataclass(frozen=True)
class Task:
    """Continue `prompt_ids` greedily by `count` tokens, among which there is none that ends the text.

    `model` is the exported file, in a folder as the exporter leaves it; `source` the directory that it was made of, a
    model or a checkpoint. `work` is for what a host builds and may keep for the next time.
    """

    model: Path
    source: Path
    work: Path
    prompt_ids: tuple[int, ...]
    count: int


class Host(Protocol):
    """A file of this room: NAME in the table, and a function that answers or raises NotHereError."""

    NAME: str

    def tokens(self, task: Task) -> list[int]:
        """Return the `count` new token ids."""
        ...


def host_of(module: ModuleType) -> Host:
    """Return `module` as a host."""
    return cast(Host, module)
