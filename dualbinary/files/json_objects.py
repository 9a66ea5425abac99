"""Reading files that other people wrote."""

import json
from pathlib import Path
from typing import Any

from dualbinary.errors import InputError

__all__ = ["read_json_object"]


def read_json_object(path: Path) -> dict[str, Any]:
    """The object that the JSON file `path` holds. Raises InputError, naming it, where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: missing") from None
    except (ValueError, RecursionError) as error:  # not UTF-8 is a ValueError too
        raise InputError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value
