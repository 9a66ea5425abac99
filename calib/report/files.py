"""Files of a report: there whole or not at all, and read only where they are what was written."""

import json
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from calib.config import explain
from dualbinary import InputError
from dualbinary.files.atomic import write_text
from dualbinary.files.json_objects import read_json_object

__all__ = ["MAX_NUMBER", "Count", "Part", "Size", "plain", "read_checked", "write_checked"]

MAX_NUMBER = 1e100  # of a number in a file: sums and products of a few are finite
Count = Annotated[int, Field(ge=0, le=1 << 53)]
Size = Annotated[float, Field(ge=0, le=MAX_NUMBER)]


class Part(BaseModel):
    """An object of such a file; what it says beside its known keys is kept and not looked at."""

    model_config = ConfigDict(extra="allow", strict=True)


def _check(kind: type[Part], value: dict[str, Any], origin: str) -> None:
    """Raise InputError, naming `origin` and the key, where `value` is not a `kind`."""
    try:
        kind.model_validate_json(json.dumps(value, allow_nan=False))
    except pydantic.ValidationError as error:
        raise InputError(f"{origin}: {plain(explain(error))}") from None
    except ValueError:  # of json: some number, known or not
        raise InputError(f"{origin}: holds a number that is not finite; expected finite ones or null") from None


def read_checked(file: Path, kind: type[Part], version: int) -> dict[str, Any]:
    """The object in `file`, a `kind`. Raises InputError where it is damaged or of another version."""
    value = read_json_object(file)
    found = value.get("version")
    if type(found) is int and found > version:
        raise InputError(
            f"{file}: version {found} is newer than {version}, the newest that this release reads; upgrade dualbinary"
        )
    if found != version:
        raise InputError(f"{file}: expected version {version}, got {found!r}; another release wrote it")
    _check(kind, value, str(file))
    return value


def write_checked(file: Path, kind: type[Part], value: dict[str, Any]) -> None:
    """Write `value`, a `kind`, whole or not at all. Raises InputError where it is not one."""
    _check(kind, value, file.name)
    write_text(file, json.dumps(value, indent=1, allow_nan=False))


def plain(text: str) -> str:
    """`text` without characters that would command a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
