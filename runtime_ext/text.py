"""Text to tokens and back: tokenizer.json, and the chat template beside it."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from dualbinary import InputError
from dualbinary.files.model_files import CHAT_TEMPLATE, TOKENIZER, TOKENIZER_CONFIG
from runtime_ext.config import read_json

__all__ = ["TextCodec"]

# Templates may name any of these.
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


class TextCodec:
    """The tokenizer of a model directory."""

    def __init__(self, directory: Path) -> None:
        """Read tokenizer.json. Raises InputError where it is missing or damaged."""
        path = directory / TOKENIZER
        if not path.is_file():
            raise InputError(f"{path}: no such file; copy the tokenizer of the original model beside the exported one")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
            # What was stored while training would cut and fill prompts; transformers ignores it as well.
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
        except Exception as error:  # the Rust library raises plain Exception
            raise InputError(f"{path}: not a tokenizer: {error}") from error
        self._directory = directory

    def encode(self, text: str) -> list[int]:
        """Token ids of a plain text, with the special tokens that the tokenizer adds by itself."""
        return self._tokenizer.encode(text).ids

    def encode_chat(self, message: str) -> list[int]:
        """Token ids of one user message in the model's chat format, up to the place where the answer begins.

        Raises InputError where the model has no chat template or the template does not accept the message.
        """
        settings = read_json(self._directory / TOKENIZER_CONFIG)
        special = {name: _special_token(settings, name) for name in SPECIAL_TOKENS}
        messages = [{"role": "user", "content": message}]
        source = self._template(settings)
        try:
            template = _environment().from_string(source)
            text = template.render(messages=messages, add_generation_prompt=True, **special)
        except Exception as error:  # a template is foreign code and fails in any way it likes
            raise InputError(f"{self._directory}: the chat template failed: {error}") from error
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

    def _template(self, settings: dict[str, Any]) -> str:
        path = self._directory / CHAT_TEMPLATE
        if path.is_file():
            return path.read_text(encoding="utf-8")
        template = settings.get("chat_template")
        if isinstance(template, list):  # several named ones: the one called "default" answers plain messages
            named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
            template = named.get("default")
        if not isinstance(template, str):
            raise InputError(f"{self._directory}: the model has no chat template; leave chat out")
        return template


def _environment() -> ImmutableSandboxedEnvironment:
    """A sandbox for templates, which come with the model; they are written for just these settings."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _special_token(settings: dict[str, Any], name: str) -> str:
    token = settings.get(name)
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else ""
