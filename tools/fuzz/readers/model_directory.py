"""A Hugging Face directory as the exporter reads it before any work: exporter.source."""

import json
from collections.abc import Iterator

import numpy as np
from safetensors.numpy import save

from dualbinary import InputError
from exporter.source.model_directory import ModelDirectory
from tools.fuzz.readers.sections import files_of, in_directory, joined

NAME = "model_directory"

_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "vocab_size": 16,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": True,
    "eos_token_id": [1, 2],
    "dtype": "float16",
}
_GPT2 = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 16}
_MIXTRAL = _LLAMA | {"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 8}
_AROUND = {"model_type": "llava", "text_config": _LLAMA, "vision_config": {}, "image_token_index": 3}
_FLAT = _LLAMA | {"model_type": "qwen2_vl", "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 0]}}
_LAYER = {
    "self_attn.q_proj": (8, 8),
    "self_attn.k_proj": (4, 8),
    "self_attn.v_proj": (4, 8),
    "self_attn.o_proj": (8, 8),
    "mlp.gate_proj": (16, 8),
    "mlp.up_proj": (16, 8),
    "mlp.down_proj": (8, 16),
    "input_layernorm": (8,),
    "post_attention_layernorm": (8,),
}


def _tensors() -> dict[str, np.ndarray]:
    shapes = {f"model.layers.0.{name}.weight": shape for name, shape in _LAYER.items()}
    shapes |= {"model.embed_tokens.weight": (16, 8), "model.norm.weight": (8,)}
    return {name: np.ones(shape, np.float16) for name, shape in shapes.items()}


def seeds() -> Iterator[bytes]:
    """Three types of models, one with an index of two files, and decoders inside others."""
    tensors = _tensors()
    for config in (_LLAMA, _GPT2, _MIXTRAL):
        yield joined({"config.json": json.dumps(config).encode(), "model.safetensors": save(tensors)})
    names = sorted(tensors)
    halves = {"model-1.safetensors": names[:2], "model-2.safetensors": names[2:]}
    files = {file: save({name: tensors[name] for name in own}) for file, own in halves.items()}
    index = {"weight_map": {name: file for file, own in halves.items() for name in own}}
    config = json.dumps(_LLAMA).encode()
    yield joined({"config.json": config, "model.safetensors.index.json": json.dumps(index).encode(), **files})
    inside = {f"language_{name.replace('model.', 'model.model.', 1)}": it for name, it in tensors.items()}
    inside["vision_tower.norm.weight"] = tensors["model.norm.weight"]
    for config, stored in ((_AROUND, inside), (_FLAT, tensors)):
        yield joined({"config.json": json.dumps(config).encode(), "model.safetensors": save(stored)})


def try_input(data: bytes) -> None:
    """Open the directory, and ask all that an export asks before it builds the graph."""
    with in_directory(files_of(data)) as directory:
        try:
            model = ModelDirectory(directory)
            _ = (model.stored_bytes, model.context_length, model.sliding_window)
            model.transformers.read_values()
            model.transformers.shapes()
            model.transformers.linears()
            model.transformers.tables()
        except InputError:
            pass
