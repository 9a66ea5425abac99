"""The JSON files beside an exported model: what a decoder, a tokenizer and the doctor read of them."""

import contextlib
import json
from collections.abc import Iterator

from dualbinary import InputError
from runtime_ext.config import DecoderConfig
from runtime_ext.doctor.model import look_at_files
from runtime_ext.special_tokens import SpecialTokens
from tools.fuzz.readers.sections import files_of, in_directory, joined

NAME = "run_files"

_GENAI = {
    "model": {
        "context_length": 64,
        "eos_token_id": [1, 2],
        "decoder": {"filename": "model.onnx", "session_options": {"custom_ops_library": "libdualbinary.so"}},
    },
    "search": {"past_present_share_buffer": True},
}
_TOKENIZER = {
    "bos_token": {"content": "<s>", "lstrip": False, "special": True},
    "eos_token": "</s>",
    "added_tokens_decoder": {"5": {"content": "<x>", "special": True}},
    "extra_special_tokens": ["<y>", {"content": "<z>"}],
}


def seeds() -> Iterator[bytes]:
    """With and without the list of added tokens that overrules other files."""
    genai, tokenizer = json.dumps(_GENAI).encode(), json.dumps(_TOKENIZER).encode()
    generation = json.dumps({"eos_token_id": 3}).encode()
    yield joined({"genai_config.json": genai, "generation_config.json": generation, "tokenizer_config.json": tokenizer})
    older = {"special_tokens_map.json": {"pad_token": "<p>"}, "added_tokens.json": {"<x>": 5, "<y>": 6}}
    yield joined({"genai_config.json": genai} | {name: json.dumps(value).encode() for name, value in older.items()})


def try_input(data: bytes) -> None:
    """Read them all, each as if the others were right."""
    with in_directory(files_of(data)) as directory:
        for read in (DecoderConfig.read, SpecialTokens.read, lambda folder: list(look_at_files(folder))):
            with contextlib.suppress(InputError):
                read(directory)
