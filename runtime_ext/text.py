"""Text to tokens and back: tokenizer.json, and the chat template beside it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer

from dualbinary import InputError
from dualbinary.files.json_objects import MAX_BYTES
from dualbinary.files.model_files import TOKENIZER
from runtime_ext.chat_template import ChatTemplate
from runtime_ext.pieces import Pieces, TokenBytes
from runtime_ext.special_tokens import SpecialTokens

__all__ = ["TextCodec"]


class TextCodec:
    """The tokenizer of a model directory, with the text and the token ids that transformers makes of it."""

    def __init__(self, directory: Path) -> None:
        """Read tokenizer.json and the files that add to it. Raises InputError where one is missing or damaged."""
        path = directory / TOKENIZER
        if path.is_file() and (size := path.stat().st_size) > MAX_BYTES:
            raise InputError(f"{path}: expected a tokenizer of at most {MAX_BYTES} bytes, got {size}")
        if not path.is_file():
            raise InputError(f"{path}: no such file; copy the tokenizer of the original model beside the exported one")
        special = SpecialTokens.read(directory)
        self._directory, self._names = directory, special.named
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
            if padding := self._tokenizer.padding:
                self._names = {"pad_token": padding["pad_token"], **special.named}
            # What was stored while training would cut and fill prompts; transformers ignores it as well.
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            known = {token.content for token in self._tokenizer.get_added_tokens_decoder().values()}
            self._tokenizer.add_tokens([token for token in special.listed if token.content not in known])
            self._tokenizer.encode_special_tokens = special.as_text
            self._token_bytes = TokenBytes(self._tokenizer)
        except BaseException as error:  # the Rust library raises plain Exception, and a panic of it is none
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise InputError(f"{path}: not a tokenizer: {error}; copy that of the original model here") from error

    def encode(self, text: str) -> list[int]:
        """Token ids of a plain text, with the special tokens that the tokenizer adds by itself.

        Raises InputError for bytes that are no UTF-8, and for a text that the tokenizer has no tokens for.
        """
        return self._encode(text, add_special_tokens=True)

    def encode_plain(self, text: str) -> list[int]:
        """Token ids of a text without special tokens, but for those that it names itself. Raises InputError."""
        return self._encode(text, add_special_tokens=False)

    @cached_property
    def start_token(self) -> int | None:
        """The id that the tokenizer puts before every text, as <bos>; None where it puts none."""
        plain = self.encode_plain("a")
        first, *rest = self.encode("a") or [None]
        return first if rest[: len(plain)] == plain else None

    def special(self, name: str) -> tuple[str, int] | None:
        """A special token, as `bos_token`: its text and its id; None where the model has none of that name."""
        text = self._names.get(name)
        token = None if text is None else self._tokenizer.token_to_id(text)
        return None if text is None or token is None else (text, token)

    def encode_chat(self, message: str) -> list[int]:
        """Token ids of one user message in the model's chat format, up to the place where the answer begins.

        Raises InputError as `encode_messages` does.
        """
        return self.encode_messages([{"role": "user", "content": message}])

    def encode_messages(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation, each message with its role and content, up to where the next answer begins.

        Raises InputError where the model has no chat template or the template does not accept the messages.
        """
        return self.encode_plain(self.chat_text(messages))

    def chat_text(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text of a conversation in the model's chat format, up to where the next answer begins.

        Raises InputError as `encode_messages` does.
        """
        return self._chat_template.render(messages, self._names)

    @cached_property
    def _chat_template(self) -> ChatTemplate:
        return ChatTemplate(self._directory)

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        try:
            text.encode()
            return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        except UnicodeEncodeError as error:
            raise InputError(f"the prompt is not valid UTF-8 at character {error.start}; give it as UTF-8") from error
        except BaseException as error:  # as above
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise InputError(f"the tokenizer cannot encode the prompt: {error}") from error

    def decode(self, ids: Iterable[int], after: Sequence[int] = ()) -> str:
        """The text of token ids, special tokens left out: what `stream` gives, in one."""
        return "".join(self.stream(ids, after))

    def stream(self, ids: Iterable[int], after: Sequence[int] = ()) -> Iterator[str]:
        """The text of token ids in `pieces`, each as soon as it is whole: a character may span several tokens.

        The last one is U+FFFD where the last character is not whole.
        """
        pieces = self.pieces(after)
        for token in ids:
            if piece := pieces(token):
                yield piece
        if rest := pieces.end():
            yield rest

    def pieces(self, after: Sequence[int] = ()) -> Pieces:
        """Takes the tokens of one text in turn, and returns what each completes; the text continues that of `after`."""
        return Pieces(self._token_bytes, after)

    def token_text(self, token: int) -> tuple[str, bytes]:
        """One token by itself, special ones included: its text, with U+FFFD for parts of characters, and its bytes."""
        return self.pieces().next_text(token)
