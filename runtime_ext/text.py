"""Text to tokens and back: tokenizer.json, and the chat template beside it."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from dualbinary import InputError
from dualbinary.files.model_files import TOKENIZER
from runtime_ext.chat_template import ChatTemplate
from runtime_ext.special_tokens import SpecialTokens

__all__ = ["TextCodec"]


class TextCodec:
    """The tokenizer of a model directory, with the text and the token ids that transformers makes of it."""

    def __init__(self, directory: Path) -> None:
        """Read tokenizer.json and the files that add to it. Raises InputError where one is missing or damaged."""
        path = directory / TOKENIZER
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
        except Exception as error:  # the Rust library raises plain Exception
            raise InputError(f"{path}: not a tokenizer: {error}") from error
        known = {token.content for token in self._tokenizer.get_added_tokens_decoder().values()}
        self._tokenizer.add_tokens([token for token in special.listed if token.content not in known])
        self._tokenizer.encode_special_tokens = special.as_text

    def encode(self, text: str) -> list[int]:
        """Token ids of a plain text, with the special tokens that the tokenizer adds by itself.

        Raises InputError for bytes that are no UTF-8, and for a text that the tokenizer has no tokens for.
        """
        try:
            text.encode()
            return self._tokenizer.encode(text).ids
        except UnicodeEncodeError as error:
            raise InputError(f"the prompt is not valid UTF-8 at character {error.start}; give it as UTF-8") from error
        except Exception as error:  # the Rust library raises plain Exception
            raise InputError(f"the tokenizer cannot encode the prompt: {error}") from error

    def encode_chat(self, message: str) -> list[int]:
        """Token ids of one user message in the model's chat format, up to the place where the answer begins.

        Raises InputError where the model has no chat template or the template does not accept the message.
        """
        messages = [{"role": "user", "content": message}]
        text = ChatTemplate(self._directory).render(messages, self._names)
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids, special tokens left out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of token ids in pieces, each as soon as it is whole: a character may span several tokens."""
        decoder = DecodeStream(skip_special_tokens=True)
        for token in ids:
            if piece := decoder.step(self._tokenizer, token):
                yield piece
