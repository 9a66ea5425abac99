"""How many tokens to guess: as many as give the most tokens a second, by what was measured so far; none where none pay.

A guess of k tokens that are each right with probability p gives 1 + p + ... + p^k tokens a run, and the run takes
a + b k seconds. Both are estimated as the text is written: p for each kind of guess, a and b by a line through the
times of the last runs. What is not measured any more is forgotten, so that guessing is tried again after a while.
"""

from dataclasses import dataclass, field

__all__ = ["Pace"]

_PRIOR_SHARE = 0.2  # b / a before anything is known
_PRIOR_SPREAD = 0.5  # what that counts as, in weights times squares of rows
_PRIOR_CHANCE = 0.7  # p before anything is known
_PRIOR_WEIGHT = 2.0  # tokens that this counts as
_RUNS = 16  # over which the times of a number of rows are averaged
_KEPT_TIME = 0.98  # of what is known of runs of several rows, at each token for which guessing did not pay
_KEPT_CHANCE = 0.97  # of what is known of guesses, at each one
_KEPT_UNTRIED = 0.99  # and at each one that was not made, as it did not pay
_SLOWEST = 3.0  # a run that took longer than so many times what was expected was disturbed
_MARGIN = 1.02  # by how much guessing has to be faster than not guessing


class _Line:
    """A line through the mean seconds of runs of each number of rows, weighted by how many there were."""

    def __init__(self) -> None:
        self._means: dict[int, list[float]] = {}  # rows: weight, seconds

    def add(self, rows: int, seconds: float) -> None:
        if self._means:
            seconds = min(seconds, _SLOWEST * self.at(rows))
        mean = self._means.setdefault(rows, [0.0, 0.0])
        mean[0] = min(mean[0] + 1, _RUNS)
        mean[1] += (seconds - mean[1]) / mean[0]

    def fade(self) -> None:
        for rows, mean in self._means.items():
            if rows > 1:
                mean[0] *= _KEPT_TIME

    def at(self, rows: int) -> float:
        """Seconds of a run of so many rows; before the first run, in units of one row's."""
        if not self._means:
            return 1 + _PRIOR_SHARE * (rows - 1)
        weight = sum(w for w, _ in self._means.values())
        middle = sum(w * r for r, (w, _) in self._means.items()) / weight
        mean = sum(w * t for w, t in self._means.values()) / weight
        spread = sum(w * (r - middle) ** 2 for r, (w, _) in self._means.items())
        product = sum(w * (r - middle) * (t - mean) for r, (w, t) in self._means.items())
        prior = _PRIOR_SHARE * mean / (1 + _PRIOR_SHARE * (middle - 1))  # as seconds of one row are those of `at`
        slope = max(0.0, (product + _PRIOR_SPREAD * prior) / (spread + _PRIOR_SPREAD))
        return max(mean + slope * (rows - middle), 1e-9)


@dataclass
class _Chance:
    """How often a guessed token that follows right ones is right."""

    right: float = 0.0
    tried: float = 0.0

    def fade(self, kept: float) -> None:
        self.right *= kept
        self.tried *= kept

    @property
    def value(self) -> float:
        return min((self.right + _PRIOR_CHANCE * _PRIOR_WEIGHT) / (self.tried + _PRIOR_WEIGHT), 0.999)


@dataclass
class Pace:
    """See the module's docstring. `guess_seconds` is what guessing one token takes, 0 for a lookup."""

    guess_seconds: float = 0.0
    _line: _Line = field(default_factory=_Line)
    _chances: dict[int, _Chance] = field(default_factory=dict)

    def count(self, kind: int, most: int) -> int:
        """Tokens to guess, 0 to `most`, where a guess of `kind` can be had."""
        chance = self._chances.setdefault(kind, _Chance())
        p, tokens, term = chance.value, 1.0, 1.0
        best, best_speed = 0, _MARGIN * tokens / self._line.at(1)
        for count in range(1, most + 1):
            term *= p
            tokens += term
            speed = tokens / (self._line.at(1 + count) + count * self.guess_seconds)
            if speed > best_speed:
                best, best_speed = count, speed
        if not best:
            chance.fade(_KEPT_UNTRIED)
            self._line.fade()
        return best

    def cost(self, rows: int) -> float:
        """How many times as long as of one token a run of `rows` takes, by what is known."""
        return self._line.at(rows) / self._line.at(1)

    def ran(self, rows: int, seconds: float) -> None:
        """Note that a run of `rows` tokens took `seconds`."""
        self._line.add(rows, seconds)

    def judged(self, kind: int, guessed: int, right: int) -> None:
        """Note that of a guess of `guessed` tokens the first `right` ones were right."""
        chance = self._chances.setdefault(kind, _Chance())
        chance.fade(_KEPT_CHANCE)
        chance.right += right
        chance.tried += min(right + 1, guessed)
