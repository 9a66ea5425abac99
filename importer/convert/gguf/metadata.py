"""The configuration of a model as metadata of a GGUF file, and proof that a reader finds the same in it.

What a file cannot say of a family (an option that llama.cpp does not know, a scaling of another kind) shows when the
metadata are read again: a value that comes back otherwise is refused by name.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from dualbinary import InputError
from importer.convert.own_model import OwnModel
from importer.readers.gguf.config import model_config
from importer.readers.gguf.container import Container, GgufTensor
from importer.readers.gguf.families import FAMILIES
from importer.readers.gguf.keys import Keys
from importer.readers.gguf.names import parameters
from importer.readers.gguf.rotary import FREQUENCIES, llama3_factors
from importer.readers.gguf.types import TYPES

__all__ = ["architecture_of", "check_metadata", "factor_tensors", "model_metadata"]

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")
"""Those that are written, of those that are read."""

_TRAINING = (  # say how a model was made or is run, not what it computes
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "max_window_layers",
    "pad_token_id",
    "pretraining_tp",
    "use_cache",
)


def architecture_of(model: OwnModel) -> str:
    """llama.cpp's name for the model's type. Raises InputError where this release writes none of it."""
    by_type = {FAMILIES[name].model_type: name for name in ARCHITECTURES}
    kind = model.config.get("model_type")
    if kind not in by_type:
        raise InputError(
            f"{model.path}: model_type {kind!r}; GGUF files are written of {', '.join(by_type)}; a directory as OUT is "
            "written as GPTQ, whatever the model is"
        )
    return by_type[kind]


def model_metadata(architecture: str, config: Any) -> dict[str, Any]:
    """The keys of an architecture, whose names they begin with."""
    values: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "attention.key_length": _head_size(config),
        "attention.value_length": _head_size(config),
        "vocab_size": config.vocab_size,
        "rope.dimension_count": _head_size(config),
    }
    values |= _rotation(_full(config.rope_parameters))
    if architecture == "gemma3":
        values["attention.sliding_window"] = config.sliding_window
        if config.final_logit_softcapping:
            values["final_logit_softcapping"] = float(config.final_logit_softcapping)
        sliding = config.rope_parameters["sliding_attention"]
        values["rope.freq_base_swa"] = float(sliding["rope_theta"])
    return {f"{architecture}.{name}": value for name, value in values.items()}


def factor_tensors(config: Any) -> dict[str, np.ndarray]:
    """Tensors that are no parameters: the factors of Llama 3's scaling."""
    rope = _full(config.rope_parameters)
    if rope.get("rope_type") != "llama3":
        return {}
    sizes = (rope["factor"], rope["original_max_position_embeddings"], rope["rope_theta"], _head_size(config))
    return {FREQUENCIES: llama3_factors(*sizes).astype(np.float32)}


def check_metadata(path: Path, metadata: dict[str, Any], shapes: dict[str, tuple[int, ...]], config: Any) -> None:
    """Raise InputError unless a reader makes the configuration `config` of the metadata, by the value that differs.

    `shapes` are those of the tensors in the file, `path` is its place.
    """
    kind = next(iter(TYPES[0]))
    data = {FREQUENCIES: factor_tensors(config).get(FREQUENCIES, np.empty(0, np.float32)).view(np.uint8)}
    tensors = {
        name: GgufTensor(name, shape, kind, data.get(name, np.empty(0, np.uint8))) for name, shape in shapes.items()
    }
    container = Container(path, {key: _as_read(value) for key, value in metadata.items()}, tensors)
    keys = Keys(container)
    family = FAMILIES[keys.architecture]
    found = model_config(keys, family)
    parameters(keys, found, family)
    theirs, ours = found.to_dict(), config.to_dict()
    for name in sorted(theirs.keys() & ours.keys() - set(_TRAINING)):
        if not _same(theirs[name], ours[name]):
            raise InputError(
                f"{name} = {ours[name]!r} of config.json: a GGUF file of a {keys.architecture} cannot say it, a reader "
                f"takes {theirs[name]!r}; a directory as OUT is written as GPTQ, with config.json as it is"
            )


def _head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _full(rope: dict[str, Any]) -> dict[str, Any]:
    """rope_parameters of the layers that see everything, where others have their own."""
    return rope.get("full_attention", rope)


def _rotation(rope: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {"rope.freq_base": float(rope["rope_theta"])}
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        values |= {"rope.scaling.type": kind, "rope.scaling.factor": float(rope["factor"])}
    if kind == "yarn":
        values["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
        for name, default in (("beta_fast", 32.0), ("beta_slow", 1.0)):
            values[f"rope.scaling.yarn_{name}"] = float(rope.get(name) or default)
    return values


def _as_read(value: Any) -> Any:
    """A value as the container's reader gives it."""
    if isinstance(value, float):
        return float(np.float32(value))
    if isinstance(value, list) and value and not isinstance(value[0], str):
        return np.array(value)
    return value


def _same(theirs: Any, ours: Any) -> bool:
    """Whether two values are one, but for a rounding to float32 and keys of no value."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        names = {name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name)}
        return all(_same(theirs.get(name), ours.get(name)) for name in names)
    if isinstance(theirs, (int, float)) and isinstance(ours, (int, float)):
        return math.isclose(theirs, ours, rel_tol=2.0**-24)
    return theirs == ours
