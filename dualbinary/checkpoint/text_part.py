"""The language model inside a directory of a model that takes pictures or sound too, read as if it were all there is.

config.json of such a model has the values of its decoder under `text_config`, and its files have the decoder's tensors
by longer names:

    language_model.model.layers...   language_model.lm_head.weight     files of transformers 4, and still of many types
    model.language_model.layers...   lm_head.weight                    of transformers 5
    model.text_model.layers...       lm_head.weight                    of Idefics and SmolVLM
    model.layers...                  lm_head.weight                    of Qwen 2 and 2.5 VL, with a flat config.json

What a text alone goes through is the decoder, as its own class (Gemma3ForCausalLM and the like) computes it: of
`WRAPPERS`, tests hold the one against the other. The classes of transformers 5.23 that join the parts leave out what
follows a decoder's head (logit_scale, logits_scaling, final_logit_softcapping); the decoder's own class does not.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualbinary.checkpoint.tensors import StoredTensor, stored_tensors
from dualbinary.errors import InputError
from dualbinary.files.json_objects import read_json_object
from dualbinary.files.model_files import CONFIG_FILE

__all__ = [
    "TEXT_NAMES",
    "WRAPPERS",
    "StoredModel",
    "has_text_part",
    "read_config",
    "read_model",
    "text_config",
    "text_name",
    "text_names",
    "text_notes",
]

WRAPPERS = frozenset(
    {
        "aya_vision",
        "cohere2_vision",
        "exaone4_5",
        "gemma3",
        "gemma4",
        "gemma4_unified",
        "granite_speech",
        "idefics2",
        "idefics3",
        "internvl",
        "lfm2_vl",
        "lfm3_vl",
        "llava",
        "llava_next",
        "llava_onevision",
        "minicpmv4_6",
        "minicpmv4_7",
        "mistral3",
        "qwen2_5_vl",
        "qwen2_audio",
        "qwen2_vl",
        "qwen3_5",
        "qwen3_vl",
        "smolvlm",
        "video_llama_3",
        "voxtral",
    }
)
"""Model types of which a text without pictures and sounds runs through nothing but a decoder."""

# Decoders that have a type of their own for the positions of pictures, which a text has not: the type that computes the
# same, and where the classes' defaults differ those of the first.
_SAME_AS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2_vl_text": ("qwen2", {"rope_theta": 1e6, "rms_norm_eps": 1e-5}),
    "qwen2_5_vl_text": ("qwen2", {"rope_theta": 1e6, "rms_norm_eps": 1e-5}),
    "qwen3_vl_text": ("qwen3", {"rope_theta": 5e5, "rms_norm_eps": 1e-6}),
}
_ROPE = ("rope_parameters", "rope_scaling")  # of transformers 5 and 4
_OF_PICTURES = ("mrope_section", "mrope_interleaved")  # how positions of pictures share the numbers of a head

TEXT_NAMES = {
    r"^(?:language_model\.model|model\.language_model|model\.text_model)\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
}
"""What names of a decoder's tensors begin with, as expressions, and what its own class has there; as transformers'
`key_mapping` takes it."""

_PART, _HEAD = "text_config", "lm_head."
_OWN = re.compile(r"model\.(layers|embed_tokens|norm)\.|lm_head\.")
_FLAT = ("qwen2_vl", "qwen2_5_vl")
_TIES = "tie_word_embeddings"
# What a config.json may say of the whole model in place of its decoder.
_SHARED = ("bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype")


@dataclass(frozen=True)
class StoredModel:
    """The language model of a directory.

    Attributes:
        config: the values of its config.json.
        tensors: by the names that its class gives them.
    """

    config: dict[str, Any]
    tensors: dict[str, StoredTensor]


def has_text_part(config: Mapping[str, Any]) -> bool:
    """Whether `config`, the values of a config.json, are those of a model around a language model."""
    kind = config.get("model_type")
    return isinstance(kind, str) and kind in WRAPPERS and isinstance(_part(config).get("model_type"), str)


def text_name(name: str) -> str | None:
    """The name that a tensor has in the decoder's own class; None where it is of another part."""
    for pattern, own in TEXT_NAMES.items():
        renamed, found = re.subn(pattern, own, name)
        if found:
            return renamed
    return name if _OWN.match(name) else None


def text_names(names: Iterable[str]) -> dict[str, str]:
    """The stored names of the decoder's tensors, by those of its own class.

    Raises InputError where two tensors would be one.
    """
    found: dict[str, str] = {}
    for name in names:
        own = text_name(name)
        if own in found:
            raise InputError(f"{found[own]} and {name} are both {own} of the language model; remove one of them")
        if own is not None:
            found[own] = name
    return found


def text_config(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The values of config.json of the decoder alone; `names` are those of all stored tensors.

    Both levels may say whether the head is the token embedding, and not the same; where the files hold no head, it is.
    """
    part = _part(config)
    shared = {key: config[key] for key in _SHARED if config.get(key) is not None and part.get(key) is None}
    has_head = any((text_name(name) or "").startswith(_HEAD) for name in names)
    values = {**part, **shared, _TIES: bool(config.get(_TIES, part.get(_TIES))) or not has_head}
    same = _SAME_AS.get(part["model_type"])
    return values if same is None else _as_type(*same, values)


def _part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the decoder as config.json has them; none where it has none."""
    part, kind = config.get(_PART), config.get("model_type")
    if part is None and kind in _FLAT:
        others = ("architectures", "vision_config")
        return {key: value for key, value in config.items() if key not in others} | {"model_type": f"{kind}_text"}
    return part if isinstance(part, dict) else {}


def _as_type(model_type: str, defaults: Mapping[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """`values` as those of another type, whose class may have other `defaults`."""
    rope: dict[str, Any] = next((values[key] for key in _ROPE if isinstance(values.get(key), dict)), {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    rope = {key: value for key, value in rope.items() if key not in (*_OF_PICTURES, "type")}
    rope = {"rope_theta": values.get("rope_theta", defaults["rope_theta"])} | rope
    rope["rope_type"] = "default" if kind == "mrope" else kind
    kept = {key: value for key, value in values.items() if key not in (*_ROPE, "rope_theta")}
    others = {key: value for key, value in defaults.items() if key != "rope_theta"}
    return {**others, **kept, "model_type": model_type, _ROPE[0]: rope}


def read_config(model_dir: Path) -> dict[str, Any]:
    """config.json of the language model in a directory, which need not hold tensors. Raises InputError."""
    config = read_json_object(Path(model_dir) / CONFIG_FILE)
    if not has_text_part(config):
        return config
    return text_config(config, stored_tensors(model_dir) if any(Path(model_dir).glob("*.safetensors")) else ())


def read_model(model_dir: Path) -> StoredModel:
    """Open a model directory, plain or a checkpoint of ours; only headers are read.

    Raises InputError as `stored_tensors` does, where config.json cannot be read, and for two tensors of one name.
    """
    config = read_json_object(Path(model_dir) / CONFIG_FILE)
    stored = stored_tensors(model_dir)
    if not has_text_part(config):
        return StoredModel(config, stored)
    tensors = {own: stored[name] for own, name in text_names(stored).items()}
    return StoredModel(text_config(config, stored), tensors)


def text_notes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What to tell of a model with this config.json: that the parts around its decoder are left out, if it has any."""
    if not has_text_part(config):
        return ()
    return (f"the language model of a {config['model_type']} alone, without its other parts",)
