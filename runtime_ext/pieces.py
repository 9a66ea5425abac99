"""What a token adds to a text: its bytes after the tokens before it, and characters as soon as they are whole.

A tokenizer's decoder looks beyond a token. That of Llama 2 cuts a blank off where a text begins, WordPiece puts one
between words, and tokens of single bytes make a character together. So the text of a token is the difference that it
makes to the text of the few tokens before it. Bytes of characters that are not whole are taken from the token itself:
the decoder would give U+FFFD for all bytes in a row where one of them is wrong, those of text that was sent before too.
"""

import codecs
import json
import re
from collections.abc import Sequence
from typing import cast

from tokenizers import Tokenizer

__all__ = ["Pieces", "TokenBytes"]

# One token decides whether the next one begins a text; a few more are for decoders that cut several characters there.
_BEFORE = 4


class TokenBytes:
    """The bytes of a tokenizer's tokens. Nothing here raises for any ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Know which tokens are special as of now."""
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder().values()
        self._special = {token.content for token in added if token.special}
        self._kinds = _kinds(tokenizer)

    def is_text(self, token: int) -> bool:
        """False for special tokens, and for ids that the tokenizer does not have."""
        stored = self._stored(token)
        return bool(stored) and stored not in self._special

    def last(self, tokens: Sequence[int]) -> list[int]:
        """Of `tokens` the last few that are text: what the bytes of the next one depend on."""
        found: list[int] = []
        for token in reversed(tokens):
            if len(found) == _BEFORE:
                break
            if self.is_text(token):
                found.insert(0, token)
        return found

    def after(self, before: Sequence[int], token: int) -> bytes:
        """What `token`, a special one too, adds to the text of `before`, which are as of `last`."""
        stored = self._stored(token)
        if not stored:
            return b""
        if "ByteFallback" in self._kinds and (found := _BYTE_TOKEN.fullmatch(stored)):
            byte = int(found[1], 16)
            if before or byte > 0x7F:  # one that begins a text may be a blank that is cut off
                return bytes([byte])
        alone = self._decode([token])
        if "ByteLevel" in self._kinds and "\ufffd" in alone and all(letter in _BYTE_OF_LETTER for letter in stored):
            return bytes(_BYTE_OF_LETTER[letter] for letter in stored)
        if not before or self._kinds == {"ByteLevel"}:
            return alone.encode()
        known, both = self._decode(before), self._decode([*before, token])
        pairs = enumerate(zip(known, both, strict=False))
        same = next((place for place, (one, other) in pairs if one != other), min(len(known), len(both)))
        return both[same:].encode()

    def _stored(self, token: int) -> str:
        """The token as the vocabulary has it, "" where there is none."""
        try:
            return self._tokenizer.id_to_token(token) or ""
        except OverflowError:
            return ""

    def _decode(self, ids: Sequence[int]) -> str:
        try:
            return self._tokenizer.decode(list(ids), skip_special_tokens=False)
        except BaseException as error:  # a panic of the Rust library, as where Strip cuts more than there is
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            return ""


class Pieces:
    """Takes the tokens of one text in turn and returns the characters that each completes. Nothing here raises.

    Bytes that are no character become U+FFFD as soon as that is certain, and what was returned before stays as it is.
    So the pieces, joined, are what decoding all tokens at once gives, except where a decoder that falls back to bytes
    would give U+FFFD for good ones beside a wrong one.
    """

    def __init__(self, tokens: TokenBytes, after: Sequence[int] = ()) -> None:
        """Continue the text of the tokens `after`: nothing is cut off the first piece then, as the blank of a word."""
        self._tokens, self._before = tokens, tokens.last(after)
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def __call__(self, token: int) -> str:
        """Take the next token; "" where it completes no character."""
        if not self._tokens.is_text(token):
            return ""
        data = self._tokens.after(self._before, token)
        self._before = [*self._before, token][-_BEFORE:]
        return self._characters.decode(data)

    def end(self) -> str:
        """End the text: U+FFFD where its last character is not whole, else ""."""
        return self._characters.decode(b"", final=True)

    def next_text(self, token: int) -> tuple[str, bytes]:
        """What `token` would add next, a special one too: text, with U+FFFD for parts of characters, and bytes."""
        data = self._tokens.after(self._before, token)
        return data.decode(errors="replace"), data


def _kinds(tokenizer: Tokenizer) -> set[str]:
    """The types of a tokenizer's decoder and of all that it is made of."""
    if tokenizer.decoder is None:
        return set()
    # What pickling stores is the one place where all versions of the library say what a Sequence has.
    left, found = [json.loads(cast(bytes, tokenizer.decoder.__getstate__()))], set[str]()
    while left:
        decoder = left.pop()
        found.add(decoder["type"])
        left += decoder.get("decoders", [])
    return found


def _byte_of_letter() -> dict[str, int]:
    """The alphabet of byte-level tokenizers: printable Latin-1 stands for itself, other bytes for U+0100 and so on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTE_OF_LETTER = _byte_of_letter()
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")  # of tokenizers that fall back to bytes
