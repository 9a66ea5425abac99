"""Reading files that other people wrote."""

import json
from pathlib import Path
from typing import Any

from dualbinary.errors import InputError

__all__ = ["MAX_BYTES", "MAX_NESTING", "nests_too_deep", "read_json_object"]


# Bytes of a file. The largest are tokenizers and indexes, of some 30 MB; a value takes ten times its bytes in memory.
MAX_BYTES = 1 << 28
MAX_NESTING = 100  # of objects and lists in one another; the deepest that are published have ten


def nests_too_deep(value: object) -> bool:
    """Whether a JSON value nests deeper than MAX_NESTING, so that what walks through it would run out of stack."""
    level = [value]
    for _ in range(MAX_NESTING):
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [each for values in inner for each in values if isinstance(each, dict | list)]
        if not level:
            return False
    return True


def read_json_object(path: Path) -> dict[str, Any]:
    """The object that the JSON file `path` holds.

    Raises InputError, naming it, where there is none: no such file, one that cannot be read or is too large, one that
    is not UTF-8 or nests too deep, and any other value. A key that is given twice has the last value.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise InputError(f"{path}: expected a JSON file of at most {MAX_BYTES} bytes, got {size}")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: missing") from None
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # not UTF-8 is a ValueError too
        raise InputError(f"{path}: not valid JSON ({error})") from None
    if nests_too_deep(value):
        raise InputError(f"{path}: expected objects and lists at most {MAX_NESTING} deep in one another")
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value
