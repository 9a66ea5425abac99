"""The two kinds of failure that every command of the project tells apart.

A library function raises one of these where the fact is known; `dualbinary.cli.console.run` turns it into one line and
an exit code. Anything else that escapes is a bug and keeps its traceback.
"""

__all__ = ["DualBinaryError", "InputError"]


class DualBinaryError(Exception):
    """The work could not be done (exit code 1).

    The message names the thing, what was expected, what came, and the way out.
    """


class InputError(DualBinaryError, ValueError):
    """What the user gave is wrong: an option, a file, a model (exit code 2). Raised before any output exists."""
