"""The configuration beside a model: what its JSON files say about it, read once, checked here, frozen.

genai_config.json (onnxruntime-genai's file) gives the context length, the end-of-text ids and whether a key/value cache
may be one buffer that is read and written; generation_config.json (Hugging Face) overrules the ids, as it does there.
Without either file the model still runs: the cache then grows, and generation stops at its token limit.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualbinary import InputError
from dualbinary.files.json_objects import read_json_object
from dualbinary.files.model_files import GENAI_CONFIG, GENERATION_CONFIG

__all__ = ["DecoderConfig", "metadata_count", "read_json"]

# Where nothing states the context length: the shortest that the supported families were trained with.
DEFAULT_CONTEXT_LENGTH = 2048
# Sixteen times the longest of published models: masks and caches grow with it.
MAX_CONTEXT_LENGTH = 1 << 24


@dataclass(frozen=True)
class DecoderConfig:
    """The facts that running a decoder needs beyond the ONNX file itself.

    `context_length` is in tokens, prompt and answer together; `share_buffer` says that `past_key_values.*` and
    `present.*` of a layer may be bound to the same memory of the full length.
    """

    context_length: int = DEFAULT_CONTEXT_LENGTH
    eos_token_ids: tuple[int, ...] = ()
    share_buffer: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.context_length <= MAX_CONTEXT_LENGTH:
            expected = f"expected 1 to {MAX_CONTEXT_LENGTH}"
            raise InputError(f"{GENAI_CONFIG}: context_length: {expected}, got {self.context_length}")

    @classmethod
    def read(cls, directory: Path) -> "DecoderConfig":
        """Read the configuration beside a model. Raises InputError for a file that is there but makes no sense."""
        genai = read_json(directory / GENAI_CONFIG)
        model, search = _section(genai, "model"), _section(genai, "search")
        eos = read_json(directory / GENERATION_CONFIG).get("eos_token_id", model.get("eos_token_id"))
        try:
            return cls(
                context_length=int(model.get("context_length", DEFAULT_CONTEXT_LENGTH)),
                eos_token_ids=_token_ids(eos),
                share_buffer=bool(search.get("past_present_share_buffer", False)),
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{directory}: {GENAI_CONFIG} or {GENERATION_CONFIG}: {error}") from error


def metadata_count(metadata: Mapping[str, str], key: str, default: int) -> int:
    """A number of tokens in the metadata of a file, `default` where it has none. Raises InputError for other texts."""
    text = metadata.get(key, str(default))
    if re.fullmatch("[0-9]{1,9}", text) is None:
        raise InputError(f"metadata {key}: expected a number of tokens, got {text[:80]!a}; export the model again")
    return int(text)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, {} where there is no such file. Raises InputError if it holds anything else."""
    return read_json_object(path) if path.exists() else {}


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name, {})
    if not isinstance(section, dict):
        raise InputError(f"{GENAI_CONFIG}: {name}: expected an object, got {type(section).__name__}")
    return section


def _token_ids(value: Any) -> tuple[int, ...]:
    """The ids of one id, a list of ids, or nothing: configurations have all three."""
    if value is None:
        return ()
    return tuple(int(item) for item in value) if isinstance(value, list) else (int(value),)
