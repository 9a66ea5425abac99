"""Tiny models that take pictures or sound too, around the decoders of `tiny_models`."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from dualbinary.checkpoint.text_part import WRAPPERS, text_name
from tests.support.exact_models import configuration, exact_model
from tests.support.tiny_models import CONFIGS

_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_heads": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "d_model": 32,
    "hidden_dim": 32,
    "out_hidden_size": 128,
    "image_size": 28,
    "patch_size": 14,
    "num_hidden_layers": 1,
    "num_layers": 1,
    "encoder_layers": 1,
    "depth": 1,
}
_OTHER_PARTS = ("vision_config", "audio_config", "encoder_config")

DECODERS = {
    "aya_vision": "cohere2",
    "cohere2_vision": "cohere2",
    "exaone4_5": "exaone4",
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_unified_text",
    "granite_speech": "granite",
    "idefics2": "mistral",
    "idefics3": "llama",
    "internvl": "qwen3",
    "lfm2_vl": "lfm2",
    "lfm3_vl": "lfm3",
    "llava": "mistral",
    "llava_next": "llama_tied",
    "llava_onevision": "qwen2",
    "minicpmv4_6": "qwen3_5_text",
    "minicpmv4_7": "qwen3_5_text",
    "mistral3": "ministral3",
    "qwen2_5_vl": "qwen2",
    "qwen2_audio": "qwen2",
    "qwen2_vl": "qwen2",
    "qwen3_5": "qwen3_5_text",
    "qwen3_vl": "qwen3",
    "smolvlm": "llama",
    "video_llama_3": "qwen2",
    "voxtral": "llama",
}
"""By type of the model around it, the name of a decoder in `CONFIGS`."""

assert set(DECODERS) == WRAPPERS

# By types of decoders with positions of pictures: how these share the frequencies of a head of 32.
_SECTIONS = {"qwen2_vl": [4, 6, 6], "qwen2_5_vl": [4, 6, 6], "qwen3_vl": [4, 6, 6]}


def wrapped_model(kind: str, directory: Path, **text: Any) -> tuple[Any, Any]:
    """Save a model of this type around an exact decoder, `text` changing its values; returns it, and the decoder."""
    model_type, values = CONFIGS[DECODERS[kind]]
    decoder = exact_model(configuration(model_type, values | text))
    wrapper: Any = transformers.CONFIG_MAPPING[kind]
    others = {part: _small(value) for part in _OTHER_PARTS if (value := getattr(wrapper(), part, None)) is not None}
    ties = bool(decoder.config.tie_word_embeddings)
    ids = {name: 250 for name in ("image_token_id", "image_token_index") if hasattr(wrapper(), name)}
    text_values = decoder.config.to_dict()
    if kind in _SECTIONS:
        text_values["rope_parameters"] |= {"mrope_section": _SECTIONS[kind]}
        del text_values["model_type"]
    config = wrapper(text_config=text_values, tie_word_embeddings=ties, **others, **ids)
    model: Any = transformers.AutoModelForMultimodalLM.from_config(config, attn_implementation="eager").float().eval()
    own = decoder.state_dict()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if (of_decoder := text_name(name)) is not None:
                tensor.copy_(own[of_decoder])
    model.save_pretrained(directory)
    return model, decoder


def rename_stored(directory: Path, names: dict[str, str]) -> None:
    """Give stored tensors whose names begin with a key of `names` names that begin with its value."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    for old, new in names.items():
        tensors = {name.replace(old, new, 1) if name.startswith(old) else name: it for name, it in tensors.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def edit_text(directory: Path, **values: Any) -> None:
    """Change values of text_config in config.json; a value of None removes the key."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    text = {**config["text_config"], **values}
    config["text_config"] = {key: value for key, value in text.items() if value is not None}
    path.write_text(json.dumps(config))


def _small(part: Any) -> dict[str, Any]:
    values = part.to_dict()
    return {"model_type": values["model_type"]} | {key: value for key, value in _SIZES.items() if key in values}
