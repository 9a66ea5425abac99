"""Stop strings: a text ends before the first of them that is whole, however it is cut into pieces."""

from collections.abc import Generator, Iterable, Sequence

__all__ = ["before_stop", "kept_back", "stop_place"]


def stop_place(text: str, stops: Sequence[str], begin: int = 0) -> int | None:
    """Where in `text`, from `begin` on, that of `stops` begins which is whole first; None where there is none.

    Of those that are whole at once it is the longest.
    """
    ends = ((place + len(stop), place) for stop in stops if (place := text.find(stop, begin)) >= 0)
    return min(ends, default=(0, None))[1]


def kept_back(unsent: str, stops: Sequence[str]) -> int:
    """Characters at the end of `unsent` that one of `stops` may begin with: they are to wait for what follows."""
    lengths = [
        length
        for stop in stops
        for length in range(1, min(len(stop), len(unsent) + 1))
        if unsent.endswith(stop[:length])
    ]
    return max(lengths, default=0)


def before_stop(pieces: Iterable[str], stops: Sequence[str]) -> Generator[str, None, bool]:
    """Yield the text of `pieces` up to the `stop_place`, as soon as it is certain, and ask for no piece after that.

    Returns whether there was one.
    """
    unsent = ""
    for piece in pieces:
        unsent += piece
        if (place := stop_place(unsent, stops)) is not None:
            if place:
                yield unsent[:place]
            return True
        if sure := len(unsent) - kept_back(unsent, stops):
            yield unsent[:sure]
            unsent = unsent[sure:]
    if unsent:
        yield unsent
    return False
