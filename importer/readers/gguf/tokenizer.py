"""The tokenizer files that a GGUF file's metadata stands for: transformers converts, this corrects it by llama.cpp."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from dualbinary import InputError
from dualbinary.files.model_files import CHAT_TEMPLATE, TOKENIZER, TOKENIZER_CONFIG
from importer.readers.gguf.keys import Keys

__all__ = ["WHOLE_WORDS", "tokenizer_files", "tokenizer_notes"]

_MODEL = "tokenizer.ggml.model"
_TOKENS = "tokenizer.ggml.tokens"
_OF_TOKENS = ("tokenizer.ggml.scores", "tokenizer.ggml.token_type")  # a number for each token
_TEMPLATE = "tokenizer.chat_template"
_PREFIX = "tokenizer.ggml.add_space_prefix"
_NONE = ("none", "no_vocab")
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_SPLIT = "tokenizer.ggml.pre"
# llama.cpp's names of how a byte-level vocabulary splits a text, beside those that transformers has a regex for; the
# first two groups are split by GPT-2's, the second after every digit has been cut out.
_LIKE_GPT2 = (
    *("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "mellum", "gigachat"),
    *("a.x-4.0", "modern-bert"),
)
_DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2")
_LIKE_BLOOM = ("bloom", "gpt3-finnish", "poro-chat")
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"  # noqa: RUF001 (marks of other scripts)
WHOLE_WORDS = (
    *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"),
    "tekken",
)
"""Those by which llama.cpp takes a word that is a token as one, merged or not, and begins a text with BOS."""


def tokenizer_notes(keys: Keys, vocabulary: int) -> list[str]:
    """What a user should know of the tokenizer; it is not converted.

    Raises InputError where its number of tokens is not `vocabulary`, or what belongs to tokens is not one for each.
    """
    metadata = keys.container.metadata
    if metadata.get(_MODEL, "none") in _NONE:
        return ["the file has no tokenizer; put tokenizer.json and tokenizer_config.json beside the checkpoint"]
    tokens = metadata.get(_TOKENS)
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise keys.fail(_TOKENS, "a list of texts", type(tokens).__name__)
    if len(tokens) != vocabulary:
        raise keys.fail(_TOKENS, f"{vocabulary} tokens, as many as embeddings", len(tokens))
    for key in _OF_TOKENS:
        values = metadata.get(key)
        if values is not None and np.shape(values) != (vocabulary,):
            raise keys.fail(
                key, f"{vocabulary} numbers, one for each token", values if np.isscalar(values) else len(values)
            )
    for key in (_SPLIT, _TEMPLATE):
        if not isinstance(value := metadata.get(key, ""), str):
            raise keys.fail(key, "a text", value)
    return _notes(metadata)


def tokenizer_files(keys: Keys) -> dict[str, str]:
    """Files of the tokenizer, name to text, of metadata that `tokenizer_notes` has checked.

    Raises InputError where transformers cannot convert it.
    """
    metadata = keys.container.metadata
    if metadata.get(_MODEL, "none") in _NONE:
        return {}
    try:
        return _converted(keys, metadata[_TOKENS])
    except Exception as error:  # whatever a converter raises at a strange vocabulary
        import transformers

        raise InputError(
            f"{keys.container.path}: transformers {transformers.__version__} cannot convert its tokenizer: {error}"
        ) from error


def _converted(keys: Keys, tokens: list[str]) -> dict[str, str]:
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_TOKENIZER_MAPPING, convert_gguf_tokenizer

    metadata = keys.container.metadata
    parts, options = (
        {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for key, name in GGUF_TOKENIZER_MAPPING[group].items()
            if (value := metadata.get(f"tokenizer.{key}")) is not None
        }
        for group in ("tokenizer", "tokenizer_config")
    )
    split = metadata.get(_SPLIT) if parts["tokenizer_type"] == "gpt2" else None
    # As llama.cpp does where a file does not say. It overrules a Gemma 4 that says no, which here stays: the published
    # tokenizer begins a text without, too, since its chat template writes the token.
    if parts["tokenizer_type"] in ("llama", "gemma4") or split in WHOLE_WORDS:
        options.setdefault("add_bos_token", True)
    for name, key in _SPECIAL.items():
        number = keys.token(key, len(tokens))
        options[name] = None if number is None else tokens[number]
    backend, more = convert_gguf_tokenizer(keys.architecture, parts)
    backend = _corrected(backend, len(tokens), prefix=metadata.get(_PREFIX, True))
    if split is not None:
        _split(backend, split)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **options, **more)
    with tempfile.TemporaryDirectory() as directory:
        tokenizer.save_pretrained(directory)
        paths = [Path(directory) / name for name in (TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE)]
        return {path.name: path.read_text(encoding="utf-8") for path in paths if path.exists()}


def _corrected(backend: Any, count: int, prefix: bool) -> Any:
    """The tokenizer without what transformers adds: tokens beyond `count`, and blanks before a text that has none.

    Its class for byte-level vocabularies brings a token of its own where the vocabulary has none of the name, and that
    for SentencePiece puts a blank first, whatever the file says.
    """
    values = json.loads(backend.to_str())
    beyond = [token for token in values["added_tokens"] if token["id"] >= count]
    splitter = values["pre_tokenizer"] or {}
    blank = not prefix and splitter.get("prepend_scheme", "never") != "never"
    if not beyond and not blank:
        return backend
    values["added_tokens"] = [token for token in values["added_tokens"] if token["id"] < count]
    if blank:
        splitter["prepend_scheme"] = "never"
        steps = values["decoder"]["decoders"]
        values["decoder"]["decoders"] = [step for step in steps if step["type"] != "Strip"]
    return type(backend).from_str(json.dumps(values))


def _split(backend: Any, name: str) -> None:
    """Make a byte-level tokenizer split a text as llama.cpp does by this name, where transformers does not."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    if name in _DIGITS_APART:
        backend.pre_tokenizer = Sequence([Digits(individual_digits=True), backend.pre_tokenizer])
    elif name in _LIKE_BLOOM:
        words = Split(Regex(_BLOOM), behavior="isolated")
        backend.pre_tokenizer = Sequence([words, ByteLevel(add_prefix_space=False, use_regex=False)])
    backend.model.ignore_merges = name in WHOLE_WORDS


def _notes(metadata: dict[str, Any]) -> list[str]:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    notes = []
    split = metadata.get(_SPLIT, "default")
    known = (*GGUF_PRE_TOKENIZER_SPLITS, *_LIKE_GPT2, *_DIGITS_APART, *_LIKE_BLOOM)
    if metadata[_MODEL] == "gpt2" and split not in known:
        notes.append(
            f"tokenizer: text is split as GPT-2 splits it, since this release does not know {split!r}; compare token "
            "ids with those of the full-precision model's tokenizer"
        )
    others = [key for key in metadata if key.startswith("tokenizer.chat_template.")]
    if others:
        notes.append(f"chat templates beside the default one are left out: {', '.join(sorted(others))}")
    return notes
