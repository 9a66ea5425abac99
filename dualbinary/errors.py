"""The kinds of failure that every command of the project tells apart: wrong input, and work that could not be done.

A library function raises one of these where the fact is known; `dualbinary.cli.console.run` turns it into one line and
an exit code. Anything else that escapes is a bug and keeps its traceback.
"""

import re
from collections.abc import Mapping

__all__ = ["DualBinaryError", "InputError", "OptionError", "with_names"]


class DualBinaryError(Exception):
    """The work could not be done (exit code 1).

    The message names the thing, what was expected, what came, and the way out.
    """


class InputError(DualBinaryError, ValueError):
    """Wrong input of the user: an option, a file, a model (exit code 2). Raised before any output exists."""


class OptionError(InputError):
    """An option has a value that it cannot have: "planes: expected 1 to 8, got 9", in words of a library's fields.

    A command says the same of its flags, by `message`. In `expected` and in `hint`, the way out, {name} is a field.
    """

    def __init__(self, field: str, expected: str, got: object, hint: str = "") -> None:
        self.field, self.expected, self.got, self.hint = field, expected, got, hint
        super().__init__(self.message({}))

    def message(self, flags: Mapping[str, str]) -> str:
        """The message with each field under the name that `flags` has for it, where it has one."""
        hint = f"; {with_names(self.hint, flags)}" if self.hint else ""
        field = flags.get(self.field, self.field)
        return f"{field}: expected {with_names(self.expected, flags)}, got {self.got}{hint}"


def with_names(text: str, names: Mapping[str, str]) -> str:
    """Replace each {field} of a text by its name in `names`, or by the field's own."""
    return re.sub(r"{([\w.]+)}", lambda found: names.get(found[1], found[1]), text)
