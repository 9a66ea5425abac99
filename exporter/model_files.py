"""The files beside out.onnx: configuration for onnxruntime-genai, transformers and our runner, and the tokenizer."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from tokenizers import Tokenizer

from dualbinary import InputError
from dualbinary.files.cache_names import PAST, PAST_STATE, PRESENT
from dualbinary.files.json_objects import read_json_object
from dualbinary.files.model_files import (
    CHAT_TEMPLATE,
    CHAT_TEMPLATES,
    CONFIG_FILE,
    GENAI_CONFIG,
    GENERATION_CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    TOKENIZER_FILES,
)
from dualbinary.onnx_files.int8_rows import FROM_INT8
from exporter.source.model_directory import ModelDirectory

__all__ = [
    "ModelFiles",
    "genai_config",
    "generation_warnings",
    "read_model_files",
    "tokenizer_warnings",
    "write_model_files",
]

# Decoders that onnxruntime-genai knows by name; every other one runs as its generic "decoder".
_GENAI_TYPES = frozenset(
    {
        "gemma",
        "gemma2",
        "gemma3_text",
        "gemma4_text",
        "granite",
        "granitemoehybrid",
        "lfm2",
        "llama",
        "mistral",
        "olmo",
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "qwen3_5_text",
        "smollm3",
    }
)
# onnxruntime-genai allocates the KV cache for max_length at once: a phone should not pay for a context it rarely fills.
_MAX_LENGTH = 4096
# Users may set "1": onnxruntime-genai then captures a step as a CUDA graph and replays it, which needs every kernel to
# launch on the stream alone, and has not been tried with ours.
_CUDA_OPTIONS = {"enable_cuda_graph": "0"}
# Types of layers by the states that they carry, as onnxruntime-genai calls them; the first of them that a layer has.
_STATES = {"recurrent": "linear_attention", "conv": "conv"}
_ATTENTION = "full_attention"
_CACHE_READERS = ("Cast", FROM_INT8)
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

# Of generation_config.json: what changes the tokens that transformers' generate() writes, and the value that does not.
_PROCESSING = {
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "guidance_scale": 1.0,
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "penalty_alpha": 0.0,
    "repetition_penalty": 1.0,
    "sequence_bias": None,
    "suppress_tokens": None,
}


@dataclass(frozen=True)
class ModelFiles:
    """The content of the small files of a model directory; read, and so checked, before any work.

    Attributes:
        config: config.json.
        generation: generation_config.json, or the token ids of config.json.
        tokenizer_config: tokenizer_config.json, or None.
        tokenizer: paths of the tokenizer's other files, by the name that each gets.
    """

    config: dict[str, Any]
    generation: dict[str, Any]
    tokenizer_config: dict[str, Any] | None
    tokenizer: dict[str, Path]


def read_model_files(source: ModelDirectory) -> ModelFiles:
    """Read the small files of `source`. Raises InputError for invalid JSON, and text that is not UTF-8."""
    generation = {key: source.config[key] for key in _TOKEN_IDS if source.config.get(key) is not None}
    if (source.directory / GENERATION_CONFIG).is_file():
        generation = read_json_object(source.directory / GENERATION_CONFIG)
        _check_token_ids(source.directory / GENERATION_CONFIG, generation)
    tokenizer_config = None
    if (source.directory / TOKENIZER_CONFIG).is_file():
        tokenizer_config = read_json_object(source.directory / TOKENIZER_CONFIG)
        # Transformers 5 names its own class for a bare tokenizer.json; other runtimes know the one that it replaced.
        if tokenizer_config.get("tokenizer_class") == "TokenizersBackend":
            tokenizer_config["tokenizer_class"] = "PreTrainedTokenizerFast"
    tokenizer = {name: path for name in TOKENIZER_FILES if (path := source.directory / name).is_file()}
    # The default of a folder of templates comes before the file; under the file's name, every runtime finds it.
    if (template := source.directory / CHAT_TEMPLATES / "default.jinja").is_file():
        tokenizer[CHAT_TEMPLATE] = template
    if (template := tokenizer.get(CHAT_TEMPLATE)) is not None:
        _check_text(template)
    return ModelFiles(source.config, generation, tokenizer_config, tokenizer)


def _check_text(path: Path) -> None:
    try:
        path.read_text(encoding="utf-8")
    except ValueError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}); convert it first, as with iconv") from None


def _check_token_ids(path: Path, values: dict[str, Any]) -> None:
    for key in _TOKEN_IDS:
        value = values.get(key)
        numbers = value if isinstance(value, list) else [value]
        if value is not None and not all(type(number) is int for number in numbers):
            raise InputError(f"{path}: {key} must be a token id or a list of them, got {value!r}")


def generation_warnings(files: ModelFiles) -> list[str]:
    """What generation_config.json asks for beyond sampling and an end."""
    found = [key for key, plain in _PROCESSING.items() if files.generation.get(key, plain) not in (plain, None, [])]
    if not found:
        return []
    return [
        f"generation_config.json sets {', '.join(found)}, which transformers' generate() applies and neither python -m "
        "runtime_ext generate nor genai_config.json does; apply it in the host"
    ]


def tokenizer_warnings(files: ModelFiles, rows: int) -> list[str]:
    """What does not fit between the tokenizer and a token embedding of `rows` rows."""
    path = files.tokenizer.get(TOKENIZER)
    if path is None:
        return []
    try:
        ids = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True).values()
        added = (files.tokenizer_config or {}).get("added_tokens_decoder") or {}
        highest = max([*ids, *map(int, added)], default=-1)
    except Exception as error:  # the Rust library raises plain Exception
        return [f"{TOKENIZER} is not a tokenizer ({error}), so nothing turns text into tokens"]
    if highest < rows:
        return []
    return [
        f"the tokenizer has ids up to {highest}, the token embedding only {rows} rows; a prompt with an id beyond is "
        "refused when the model runs"
    ]


def write_model_files(directory: Path, files: ModelFiles, genai: dict[str, Any]) -> None:
    """Write genai_config.json, config.json, generation_config.json and the tokenizer's files into `directory`."""
    _write_json(directory / GENAI_CONFIG, genai)
    _write_json(directory / CONFIG_FILE, files.config)
    _write_json(directory / GENERATION_CONFIG, files.generation)
    if files.tokenizer_config is not None:
        _write_json(directory / TOKENIZER_CONFIG, files.tokenizer_config)
    for name, path in files.tokenizer.items():
        shutil.copyfile(path, directory / name)


def genai_config(
    model: ir.Model, files: ModelFiles, model_file: str, context: int | None, target: str, library: Path | None
) -> dict[str, Any]:
    """genai_config.json for the finished graph, which takes `context` tokens, None where nothing says how many.

    head_size is that of a row of the cache. `library` has to be registered, None where the function can run: with one
    that it does not find, or finds behind a link, onnxruntime-genai loads no model (decision 0013).
    """
    context = context or _MAX_LENGTH
    config, model_type = files.config, files.config["model_type"]
    inputs = [str(value.name) for value in model.graph.inputs]
    past = next(value for value in model.graph.inputs if str(value.name).startswith(PAST))
    assert past.shape is not None
    head_size, kv_heads = int(past.shape[3]), int(past.shape[1])  # type: ignore[arg-type]
    heads = _first(config, "num_attention_heads", "n_head", "n_heads") or kv_heads
    names = {name: name for name in ("input_ids", "attention_mask", "position_ids") if name in inputs}
    options: dict[str, Any] = {"log_id": "onnxruntime-genai", "provider_options": []}
    if library is not None:
        options["custom_ops_library"] = library.name
    if target == "cuda":
        options["provider_options"] = [{"cuda": dict(_CUDA_OPTIONS)}]
    decoder = {
        "session_options": options,
        "filename": model_file,
        "head_size": head_size,
        "hidden_size": _first(config, "hidden_size", "n_embd") or heads * head_size,
        "inputs": {**names, "past_key_names": f"{PAST}%d.key", "past_value_names": f"{PAST}%d.value"},
        "outputs": {
            "logits": "logits",
            "present_key_names": f"{PRESENT}%d.key",
            "present_value_names": f"{PRESENT}%d.value",
        },
        "num_attention_heads": heads,
        "num_hidden_layers": sum(name.endswith(".key") for name in inputs),
        "num_key_value_heads": kv_heads,
    }
    _add_states(decoder, model)
    return {
        "model": {
            **_token_ids(files),
            "context_length": context,
            "decoder": decoder,
            "type": model_type if model_type in _GENAI_TYPES else "decoder",
            "vocab_size": _vocabulary(model),
        },
        "search": {
            "do_sample": False,
            "max_length": min(context, _MAX_LENGTH),
            "min_length": 0,
            "num_beams": 1,
            "past_present_share_buffer": _shares_cache(model),
            "temperature": 1.0,
            "top_k": 50,
            "top_p": 1.0,
        },
    }


def _token_ids(files: ModelFiles) -> dict[str, Any]:
    """Those that the files give; what ends a text pads it too, where nothing else does."""
    tokens = {key: files.generation.get(key, files.config.get(key)) for key in _TOKEN_IDS}
    tokens = {key: value for key, value in tokens.items() if value not in (None, [])}
    if "pad_token_id" not in tokens and "eos_token_id" in tokens:
        end = tokens["eos_token_id"]
        tokens["pad_token_id"] = end[0] if isinstance(end, list) else end
    return tokens


def _add_states(decoder: dict[str, Any], model: ir.Model) -> None:
    """Name the states that layers carry in place of keys and values, and say which layers do."""
    layers: dict[int, dict[str, ir.Value]] = {}
    for value in model.graph.inputs:
        prefix, _, place = str(value.name).partition(".")
        if f"{prefix}." in (PAST, PAST_STATE):
            number, _, kind = place.partition(".")
            layers.setdefault(int(number), {})[kind] = value
    states = {kind: value for layer in layers.values() for kind, value in layer.items() if kind in _STATES}
    if not states:
        return
    for kind in states:
        decoder["inputs"][f"past_{kind}_names"] = f"{PAST_STATE}%d.{kind}"
        decoder["outputs"][f"present_{kind}_names"] = f"{PRESENT}%d.{kind}"
    types = [next((_STATES[kind] for kind in _STATES if kind in layers[i]), _ATTENTION) for i in sorted(layers)]
    decoder |= {"num_hidden_layers": len(layers), "layer_types": types}
    assert states["conv"].shape is not None
    decoder["conv_cache_size"] = states["conv"].shape[-1]


def _shares_cache(model: ir.Model) -> bool:
    """True where all caches are written in place: GroupQueryAttention does so, other nodes make longer ones."""
    caches = [value for value in model.graph.inputs if str(value.name).startswith(PAST)]
    # In a cache of another type, by way of nodes that change it.
    caches += [node.outputs[0] for cache in caches for node, _ in cache.uses() if node.op_type in _CACHE_READERS]
    in_place = ("GroupQueryAttention", "Shape", *_CACHE_READERS)
    return all(node.op_type in in_place for cache in caches for node, _ in cache.uses())


def _vocabulary(model: ir.Model) -> int:
    """Length of the logits."""
    logits = next(value for value in model.graph.outputs if value.name == "logits")
    assert logits.shape is not None
    return int(logits.shape[-1])  # type: ignore[arg-type]


def _first(config: dict[str, Any], *keys: str) -> int | None:
    return next((int(config[key]) for key in keys if isinstance(config.get(key), int)), None)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
