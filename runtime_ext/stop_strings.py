"""Stop strings: a text ends before the first of them, wherever it falls among the pieces that the text comes in."""

from collections.abc import Iterable, Iterator, Sequence

__all__ = ["before_stop", "kept_back", "stop_place"]


def stop_place(text: str, stops: Sequence[str], begin: int = 0) -> int | None:
    """Where in `text`, from `begin` on, the first of `stops` begins; None where there is none."""
    return min((place for stop in stops if (place := text.find(stop, begin)) >= 0), default=None)


def kept_back(unsent: str, stops: Sequence[str]) -> int:
    """Characters at the end of `unsent` that one of `stops` may begin with: they are to wait for what follows."""
    lengths = [
        length
        for stop in stops
        for length in range(1, min(len(stop), len(unsent) + 1))
        if unsent.endswith(stop[:length])
    ]
    return max(lengths, default=0)


def before_stop(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """The text of `pieces` up to the first of `stops`, as soon as it is certain; asks for no piece after that."""
    unsent = ""
    for piece in pieces:
        unsent += piece
        if (place := stop_place(unsent, stops)) is not None:
            if place:
                yield unsent[:place]
            return
        if sure := len(unsent) - kept_back(unsent, stops):
            yield unsent[:sure]
            unsent = unsent[sure:]
    if unsent:
        yield unsent
