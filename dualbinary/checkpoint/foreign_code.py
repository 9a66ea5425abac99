"""Code that a config.json asks for: none of it is ever fetched or run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dualbinary.errors import InputError

__all__ = ["refuse_foreign_code"]

# Keys by which transformers takes the code of attention, or of experts, from a hub: a name with a slash in it.
_KEYS = ("attn_implementation", "experts_implementation")


def refuse_foreign_code(path: Path, config: dict[str, Any]) -> None:
    """Raise InputError where `config`, of the file `path`, names code of a hub that a model should be run by.

    A class in a Python file of the directory (auto_map) is no reason: transformers has its own for every type of model
    that is read, and takes that.
    """
    for key, value in _values(config):
        if any(name in key for name in _KEYS) and isinstance(value, str) and "/" in value:
            raise InputError(f"{path}: {key}: {value[:80]!a} is code of a hub, which is never run; take the key out")


def _values(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys with their values, those of objects inside under the key of the object, too."""
    waiting: list[tuple[str, Any]] = list(config.items())
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{key}.{name}", inner) for name, inner in value.items()]
        else:
            yield key, value
