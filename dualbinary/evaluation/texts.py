"""Texts to measure on, each with a name of its own.

    wiki.test.raw               the text "wiki.test"
    news=a.txt,'more/*.txt'     the text "news": these files, one after another

A word that is the path of a file is that file, whatever characters it has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dualbinary.errors import InputError
from dualbinary.files.documents import expand, plain_name

__all__ = ["TEXT_HELP", "NamedText", "check_windows", "named_texts"]

TEXT_HELP = (
    "texts, each measured by itself: txt, jsonl, parquet or a pattern; NAME=FILE,FILE names a text and joins its files"
)


@dataclass(frozen=True)
class NamedText:
    """A text: its name in tables, and its files or patterns, which are read one after another."""

    name: str
    files: tuple[str, ...]


def named_texts(words: Sequence[str]) -> list[NamedText]:
    """The texts that words of a command line name. Raises InputError for files that are not there, and equal names."""
    texts: dict[str, NamedText] = {}
    for word in words:
        text = _named(word)
        if text.name in texts:
            raise InputError(
                f"--text {word}: another text is called {text.name} as well; give it a name of its own, as in "
                f"b={','.join(text.files)}"
            )
        expand(text.files)
        texts[text.name] = text
    return list(texts.values())


def check_windows(count: int, length: int) -> None:
    """Raise InputError for less than one window of two tokens: the first token of a window is not predicted."""
    if count < 1 or length < 2:
        raise InputError(f"--windows {count} --length {length}: expected at least 1 window of 2 tokens")


def _named(word: str) -> NamedText:
    name, sign, files = word.partition("=")
    if Path(word).is_file() or not sign:
        return NamedText(plain_name(Path(word)) if Path(word).is_file() else word, (word,))
    if not name or not all(parts := files.split(",")):
        raise InputError(f"--text {word}: expected NAME=FILE or NAME=FILE,FILE")
    return NamedText(name, tuple(parts))
