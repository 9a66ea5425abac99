"""The files beside out.onnx: what onnxruntime-genai, transformers and our own runner need to know about the model."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from dualbinary.files.json_objects import read_json_object
from dualbinary.onnx_files.model_files import (
    GENAI_CONFIG,
    GENERATION_CONFIG,
    MODEL_CONFIG,
    TOKENIZER_CONFIG,
    TOKENIZER_FILES,
)
from exporter.source.model_directory import ModelSource

__all__ = ["Companions", "genai_config", "read_companions", "write_sidecars"]

# Decoders that onnxruntime-genai knows by name; every other one runs as its generic "decoder".
_GENAI_TYPES = frozenset(
    {
        "gemma",
        "gemma2",
        "gemma3_text",
        "granite",
        "llama",
        "mistral",
        "olmo",
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "smollm3",
    }
)
# onnxruntime-genai allocates the KV cache for max_length at once: a phone should not pay for a context it rarely fills.
_MAX_LENGTH = 4096
# The key is there to be turned: with "1" onnxruntime-genai captures a step as a CUDA graph and replays it, which needs
# every kernel to launch on the stream alone, and has not been tried with ours.
_CUDA_OPTIONS = {"enable_cuda_graph": "0"}


def genai_config(
    model: ir.Model, source: ModelSource, generation: dict[str, Any], model_file: str, target: str, library: Path | None
) -> dict[str, Any]:
    """genai_config.json for the finished graph; `library` lies beside it, None where only the fallback can run."""
    config = source.config
    inputs = [str(value.name) for value in model.graph.inputs]
    past = next(value for value in model.graph.inputs if str(value.name).startswith("past_key_values."))
    assert past.shape is not None
    layers = sum(name.endswith(".key") for name in inputs)
    head_size, kv_heads = int(past.shape[3]), int(past.shape[1])  # type: ignore[arg-type]
    heads = _first(config, "num_attention_heads", "n_head", "n_heads") or kv_heads
    context = _first(config, "max_position_embeddings", "n_positions", "seq_length") or _MAX_LENGTH
    share = all(node.op_type != "Attention" for node in model.graph)
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
        "inputs": {
            **names,
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
    }
    tokens = {key: generation.get(key, config.get(key)) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if tokens["pad_token_id"] is None:
        end = tokens["eos_token_id"]
        tokens["pad_token_id"] = end[0] if isinstance(end, list) else end
    return {
        "model": {
            **{key: value for key, value in tokens.items() if value is not None},
            "context_length": context,
            "decoder": decoder,
            "type": source.model_type if source.model_type in _GENAI_TYPES else "decoder",
            "vocab_size": _vocabulary(model),
        },
        "search": {
            "do_sample": False,
            "max_length": min(context, _MAX_LENGTH),
            "min_length": 0,
            "num_beams": 1,
            "past_present_share_buffer": share,
            "temperature": 1.0,
            "top_k": 50,
            "top_p": 1.0,
        },
    }


@dataclass(frozen=True)
class Companions:
    """What a model directory brings besides configuration and weights; read, and so checked, before any work.

    generation: generation_config.json, or the token ids of config.json.
    tokenizer_config: tokenizer_config.json, or None.
    files: the tokenizer's other files.
    """

    generation: dict[str, Any]
    tokenizer_config: dict[str, Any] | None
    files: tuple[Path, ...]

    @property
    def names(self) -> list[str]:
        """Names of the files that `write_sidecars` will write for it."""
        return [path.name for path in self.files] + ([TOKENIZER_CONFIG] if self.tokenizer_config is not None else [])


def read_companions(source: ModelSource) -> Companions:
    """Read the companions of `source`. Raises InputError for JSON that is none."""
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    generation = {key: source.config[key] for key in keys if source.config.get(key) is not None}
    if (source.directory / GENERATION_CONFIG).is_file():
        generation = read_json_object(source.directory / GENERATION_CONFIG)
    tokenizer_config = None
    if (source.directory / TOKENIZER_CONFIG).is_file():
        tokenizer_config = read_json_object(source.directory / TOKENIZER_CONFIG)
        # Transformers 5 names its own class for a bare tokenizer.json; other runtimes know the one that it replaced.
        if tokenizer_config.get("tokenizer_class") == "TokenizersBackend":
            tokenizer_config["tokenizer_class"] = "PreTrainedTokenizerFast"
    files = tuple(source.directory / name for name in TOKENIZER_FILES if (source.directory / name).is_file())
    return Companions(generation, tokenizer_config, files)


def write_sidecars(directory: Path, source: ModelSource, genai: dict[str, Any], companions: Companions) -> None:
    """Write genai_config.json, config.json, generation_config.json and the tokenizer's files into `directory`."""
    _write_json(directory / GENAI_CONFIG, genai)
    _write_json(directory / MODEL_CONFIG, source.config)
    _write_json(directory / GENERATION_CONFIG, companions.generation)
    if companions.tokenizer_config is not None:
        _write_json(directory / TOKENIZER_CONFIG, companions.tokenizer_config)
    for path in companions.files:
        shutil.copyfile(path, directory / path.name)


def _vocabulary(model: ir.Model) -> int:
    """Length of the logits."""
    logits = next(value for value in model.graph.outputs if value.name == "logits")
    assert logits.shape is not None
    return int(logits.shape[-1])  # type: ignore[arg-type]


def _first(config: dict[str, Any], *keys: str) -> int | None:
    return next((int(config[key]) for key in keys if isinstance(config.get(key), int)), None)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
