"""The windows of tokens that studies measure on: those of `python -m runtime_ext eval` and `python -m calib eval`."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from dualbinary.evaluation.texts import check_windows, named_texts
from runtime_ext.evaluation.scoring import text_windows
from runtime_ext.text import TextCodec

__all__ = ["windows_of"]


def windows_of(directory: Path, text: Path, count: int, length: int) -> npt.NDArray[np.int64]:
    """The first windows of a text by the tokenizer in `directory`, int64 [count, length]. Raises InputError."""
    check_windows(count, length)
    (named,) = named_texts([str(text)])
    return text_windows(TextCodec(directory), named, count, length)
