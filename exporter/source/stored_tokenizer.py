"""tokenizer.json as transformers encodes by it: without truncation and padding that training may have left in it."""

from pathlib import Path

from tokenizers import Tokenizer

__all__ = ["stored_tokenizer"]


def stored_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of the file `path`. Raises plain Exception, as the library does, where it is none."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
