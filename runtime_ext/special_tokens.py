"""What the files beside tokenizer.json say about it: names of special tokens, and tokens that it lacks.

They are read as transformers reads them. tokenizer_config.json comes first; where it does not list the added tokens
itself (added_tokens_decoder), special_tokens_map.json overrules it and added_tokens.json adds tokens.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from dualbinary import InputError
from dualbinary.files.model_files import ADDED_TOKENS, SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG
from runtime_ext.config import read_json

__all__ = ["SpecialTokens"]

# The names that each tokenizer may use, in transformers' order: tokens that a tokenizer lacks get their ids in it.
_USUAL_NAMES = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of a model directory.

    Attributes:
        named: text by name, such as bos_token: those that the model has, which templates may name.
        listed: all tokens that the files name, in the order in which a tokenizer that lacks them takes them in.
        as_text: special tokens in a text are split as any other part of it.
    """

    named: dict[str, str]
    listed: tuple[AddedToken, ...]
    as_text: bool

    @classmethod
    def read(cls, directory: Path) -> "SpecialTokens":
        """Read the files beside tokenizer.json. Raises InputError for one that makes no sense."""
        settings = read_json(directory / TOKENIZER_CONFIG)
        added = settings.get("added_tokens_decoder")
        try:
            if added is None:
                settings = settings | read_json(directory / SPECIAL_TOKENS_MAP)
                ids = {int(index): text for text, index in read_json(directory / ADDED_TOKENS).items()}
            else:
                ids = {int(index): token for index, token in added.items()}
            named, extra = _named(settings), _extra(settings)
            special = {*named.values(), *map(_text, extra)}
            listed = [_token(ids[index], special) for index in sorted(ids)]
            listed += [_token(token, special) for token in (*named.values(), *extra)]
        except (AttributeError, TypeError, ValueError, OverflowError, RecursionError) as error:
            names = f"{TOKENIZER_CONFIG}, {SPECIAL_TOKENS_MAP} or {ADDED_TOKENS}"
            raise InputError(f"{directory}: {names}: {error}") from error
        return cls(named, tuple(listed), bool(settings.get("split_special_tokens")))


def _named(settings: dict[str, Any]) -> dict[str, str]:
    """Each entry called ..._token, and what extra_special_tokens gives names to."""
    names = dict.fromkeys((*_USUAL_NAMES, *settings))
    entries = {name: settings.get(name) for name in names if name.endswith("_token")}
    if isinstance(extra := settings.get("extra_special_tokens"), dict):
        entries |= extra
    return {name: text for name, value in entries.items() if (text := _text(value)) is not None}


def _extra(settings: dict[str, Any]) -> list[Any]:
    """The tokens without a name, under either of the two keys that were in use."""
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens")
    return extra if isinstance(extra, list) else []


def _text(token: Any) -> str | None:
    """The text of a token as files have it, a string or an object; None for anything else, such as a flag."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _token(token: Any, special: set[str | None]) -> AddedToken:
    """A token with the flags that its object states."""
    text = _text(token)
    if text is None:
        raise ValueError(f"expected a token, a string or an object with content, got {token!r}")
    flags = {flag: bool(token[flag]) for flag in _FLAGS if flag in token} if isinstance(token, dict) else {}
    return AddedToken(text, **{"special": text in special, "normalized": text not in special} | flags)
