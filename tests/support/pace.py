"""A pace of guesses that no time has a say in."""

from runtime_ext.speculation import Pace


class Always(Pace):
    """As many guesses as there can be."""

    def count(self, kind: int, most: int) -> int:
        return most
