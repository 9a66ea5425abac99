"""How many tokens to guess: as many as give the most tokens a second, by what was measured so far; none where none pay.

A guess of k tokens that are each right with probability p gives 1 + p + ... + p^k tokens a run, and the run takes
a + b k seconds. Both are estimated as the text is written: p for each kind of guess, a and b by a line through the
times of the last runs. What is not measured any more is forgotten, so that guessing is tried again after a while.
"""

from dataclasses import dataclass, field

__all__ = ["Pace"]

_PRIOR_SHARE = 0.2  # b / a before anything is known
_PRIOR_CHANCE = 0.7  # p before anything is known
_PRIOR_WEIGHT = 2.0  # tokens that this counts as
_PRIOR_SPREAD = 0.5  # and that the first counts as, in squares of rows
_KEPT_TIME = 0.95  # of the weight of earlier runs, at each run
_KEPT_CHANCE = 0.97  # of the weight of earlier guesses, at each guess
_SLOWEST = 3.0  # a run that took longer than so many times what was expected was disturbed
_MARGIN = 1.02  # by how much guessing has to be faster than not guessing


@dataclass
class _Line:
    """Least squares of seconds over rows, with weights that fade."""

    weight: float = 0.0
    rows: float = 0.0
    squares: float = 0.0
    seconds: float = 0.0
    products: float = 0.0

    def add(self, rows: int, seconds: float) -> None:
        if self.weight:
            seconds = min(seconds, _SLOWEST * self.at(rows))
        for name, value in (
            ("weight", 1.0),
            ("rows", rows),
            ("squares", rows * rows),
            ("seconds", seconds),
            ("products", rows * seconds),
        ):
            setattr(self, name, _KEPT_TIME * getattr(self, name) + value)

    def at(self, rows: int) -> float:
        """Seconds of a run of so many rows; only their ratios count before the first run."""
        if not self.weight:
            return 1 + _PRIOR_SHARE * (rows - 1)
        mean_rows, mean = self.rows / self.weight, self.seconds / self.weight
        spread = self.squares / self.weight - mean_rows**2
        slope = self.products / self.weight - mean_rows * mean
        # A mean of rows r takes a (1 + share (r - 1)) by the prior, whose slope is a share.
        prior = _PRIOR_SHARE * mean / (1 + _PRIOR_SHARE * (mean_rows - 1))
        slope = max(0.0, (slope + _PRIOR_SPREAD * prior) / (spread + _PRIOR_SPREAD))
        return max(mean + slope * (rows - mean_rows), 1e-9)


@dataclass
class _Chance:
    """How often a guessed token that follows right ones is right."""

    right: float = 0.0
    tried: float = 0.0

    def fade(self) -> None:
        self.right *= _KEPT_CHANCE
        self.tried *= _KEPT_CHANCE

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
            chance.fade()
        return best

    def ran(self, rows: int, seconds: float) -> None:
        """Note that a run of `rows` tokens took `seconds`."""
        self._line.add(rows, seconds)

    def judged(self, kind: int, guessed: int, right: int) -> None:
        """Note that of a guess of `guessed` tokens the first `right` ones were right."""
        chance = self._chances.setdefault(kind, _Chance())
        chance.fade()
        chance.right += right
        chance.tried += min(right + 1, guessed)
