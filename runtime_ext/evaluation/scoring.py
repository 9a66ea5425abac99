"""What a model thinks of tokens that are given: log-probabilities, window by window."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dualbinary import DualBinaryError, InputError
from dualbinary.evaluation.texts import NamedText
from dualbinary.files.documents import pieces, read_documents
from runtime_ext.decoder import Decoder
from runtime_ext.text import TextCodec

__all__ = ["log_probabilities", "text_windows", "window_logits", "window_nll"]


def text_windows(codec: TextCodec, text: NamedText, count: int, length: int) -> npt.NDArray[np.int64]:
    """The first `count` windows of a text, int64 [count, length]; no more is read than that.

    Each begins with the token that the tokenizer puts before a text, where it puts one, and has no other special ones:
    the same as those of `python -m calib eval`. Raises InputError where the text is shorter.
    """
    start = codec.start_token
    cut = length if start is None else length - 1
    tokens: list[int] = []
    documents: Iterator[tuple[Path, str]] = read_documents(text.files, None)
    for piece, _ in pieces(document for _, document in documents):
        tokens += codec.encode_plain(piece)
        if len(tokens) >= count * cut:
            windows = np.array(tokens[: count * cut], np.int64).reshape(count, cut)
            return windows if start is None else np.pad(windows, ((0, 0), (1, 0)), constant_values=start)
    raise InputError(
        f"the text {text.name} has {len(tokens)} tokens, expected {count} windows of {cut}; lower --windows or give "
        "more"
    )


def window_logits(decoder: Decoder, window: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
    """The logits [n, V] that follow each token of a window, as many at a time as a run gives; the window is alone.

    Raises InputError where it is longer than the model's context.
    """
    decoder.start(len(window))
    return decoder.step_each(window)


def log_probabilities(
    logits: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Log P of `targets` [n] by `logits` [n, V], float64 [n], and whether each is the most likely token.

    Raises DualBinaryError where logits are not finite.
    """
    top = logits.max(axis=1, keepdims=True)
    if not np.isfinite(top).all():
        raise DualBinaryError(
            "the logits are not finite; activations beyond 65504 overflow in float16, which an export with --dtype "
            "fp32 avoids, else the weights are not finite"
        )
    sums = np.exp(logits - top).sum(axis=1, dtype=np.float64)
    chosen = np.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
    return chosen.astype(np.float64) - top[:, 0] - np.log(sums), logits.argmax(axis=1) == targets


def window_nll(
    decoder: Decoder, windows: npt.NDArray[np.int64], advance: Callable[[], None] = lambda: None
) -> tuple[float, ...]:
    """The mean of -log P over the tokens of each window but its first; `advance` is called after each."""
    found = []
    for window in windows:
        scores, place = [], 1
        for logits in window_logits(decoder, window[:-1].tolist()):  # the last token has no successor to predict
            scores.append(log_probabilities(logits, window[place : place + len(logits)])[0])
            place += len(logits)
        found.append(-float(np.concatenate(scores).mean()))
        advance()
    return tuple(found)
