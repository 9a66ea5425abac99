"""The configuration of transformers that a GGUF file's metadata and the shapes of its tensors stand for."""

from typing import Any

from dualbinary import InputError
from importer.readers.gguf.families import FAMILIES, Family
from importer.readers.gguf.keys import Keys
from importer.readers.gguf.rotary import rope_parameters

__all__ = ["family_of", "generation_values", "model_config"]

_TABLE, _HEAD = "token_embd.weight", "output.weight"
# What metadata says of every family, by the names that configuration classes have for it; the first that a class has.
_CONTEXT = ("max_position_embeddings",)
_KEY_HEADS = ("num_key_value_heads", "num_kv_heads")
_WIDTH = ("intermediate_size", "ffn_hidden_size", "n_inner")
_INNER, _GROUPS = "feed_forward_length", "attention.head_count_kv"
_EPSILON = ("rms_norm_eps", "norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
_EPSILON_KEYS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon")
_TOKENS = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
_ENDS_OF_TURNS = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<turn|>", "<EOT>")
_CONTROL_TYPES = (3, 4)  # tokens that are no text: control, user-defined
_EXTRA = ("seq_length",)  # BLOOM's, which config.json has and the class only keeps
_NOTHING_MORE = ("vocab_size", "file_type")


def family_of(keys: Keys) -> Family:
    """The family of a file. Raises InputError where this release has none of the name."""
    family = FAMILIES.get(keys.architecture)
    if family is None:
        raise InputError(
            f"{keys.container.path}: architecture {keys.architecture!r}; this release reads {', '.join(FAMILIES)}; "
            "give the full-precision model"
        )
    return family


def model_config(keys: Keys, family: Family) -> Any:
    """The configuration object of transformers.

    Raises InputError where metadata lacks something, contradicts the tensors, or says what the family does not have;
    and where transformers refuses the outcome, in its words.
    """
    import transformers

    default = transformers.CONFIG_MAPPING[family.model_type]()
    values = _common_values(keys, default, family)
    values |= family.values(keys, values)
    known = {name: value for name, value in values.items() if _takes(default, name)}
    try:
        config = transformers.AutoConfig.for_model(family.model_type, **known)
    except Exception as error:  # whatever the validation of a value raises
        raise InputError(
            f"{keys.container.path}: transformers {transformers.__version__} refuses the configuration of this model: "
            f"{error}"
        ) from error
    model_class: Any = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    config.architectures = [model_class.__name__]
    return config


def _takes(default: Any, name: str) -> bool:
    """Whether the class of a configuration has a value of this name that is not computed from others."""
    kind = getattr(type(default), name, None)
    computed = isinstance(kind, property) and kind.fset is None
    stored = name in default.to_dict()  # also where its layers differ, of which the attribute knows nothing
    return name in _EXTRA or (not computed and (stored or hasattr(default, name)))


def _common_values(keys: Keys, default: Any, family: Family) -> dict[str, Any]:
    """Values of all families, under the first name for each and, where the class has another, under that too."""
    tensors = keys.container.tensors
    if _TABLE not in tensors:
        raise InputError(f"{keys.container.path}: no tensor {_TABLE!r}; the file holds no language model")
    layers = keys.whole("block_count")
    if layers > len(tensors):
        raise keys.fail("block_count", f"at most {len(tensors)}, as many as there are tensors", layers)
    heads, hidden = keys.whole("attention.head_count"), keys.whole("embedding_length")
    size = keys.whole("attention.key_length", hidden // heads)
    if keys.whole("attention.value_length", size) != size:
        raise keys.fail("attention.value_length", f"{size}, as that of keys", keys.whole("attention.value_length"))
    if not keys.flag("attention.causal", True):
        raise keys.fail("attention.causal", "true, as of every model that continues a text", False)
    vocabulary = tensors[_TABLE].shape[0]
    values: dict[str, Any] = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "head_dim": size,
        "vocab_size": vocabulary,
        "tie_word_embeddings": _HEAD not in tensors,
        **{name: keys.token(token, vocabulary) for name, token in _TOKENS.items()},
    }
    width = None if _INNER in family.own_keys else keys.whole(_INNER)
    written = [name for name in _EPSILON_KEYS if keys.has(name)] or _EPSILON_KEYS[:1]
    epsilon = keys.real(written[0])
    if keys.real(written[-1]) != epsilon:  # a converter may write it under both names
        raise keys.fail(written[-1], f"{epsilon}, as {written[0]}", keys.real(written[-1]))
    for names, value in ((_CONTEXT, keys.whole("context_length")), (_WIDTH, width), (_EPSILON, epsilon)):
        values[names[0]] = value
        values |= {name: value for name in names if hasattr(default, name)}
    if _GROUPS not in family.own_keys:
        values |= dict.fromkeys(_KEY_HEADS, keys.whole(_GROUPS, heads))
    _add_rotation(keys, default, values)
    keys.ignore(*_NOTHING_MORE)
    return values


def _add_rotation(keys: Keys, default: Any, values: dict[str, Any]) -> None:
    """rope_parameters, where the class has them, with the part of a head that is rotated."""
    if not getattr(default, "rope_parameters", None):
        return
    size = values["head_dim"]
    rotated = keys.whole("rope.dimension_count", size)
    parameters = rope_parameters(keys, rotated)
    if "partial_rotary_factor" in default.rope_parameters:
        parameters["partial_rotary_factor"] = rotated / size
    elif rotated != size:
        raise keys.fail("rope.dimension_count", f"{size}, as wide as a head", rotated)
    values["rope_parameters"] = parameters


def generation_values(keys: Keys, config: Any) -> dict[str, Any]:
    """generation_config.json: the tokens at which a text begins and ends.

    A text ends at the token that the file names, and at those that end a turn of a conversation: the file names them,
    too, or they have one of the names that published vocabularies have for them.
    """
    count = config.vocab_size
    tokens = keys.container.metadata.get("tokenizer.ggml.tokens")
    kinds = keys.container.metadata.get("tokenizer.ggml.token_type")
    ends = [keys.token(name, count) for name in ("eos", "eot", "eom")]
    if isinstance(tokens, list) and kinds is not None and len(kinds) == len(tokens):
        ends += [
            number
            for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if token in _ENDS_OF_TURNS and kind in _CONTROL_TYPES
        ]
    found = list(dict.fromkeys(end for end in ends if end is not None))
    values = {"bos_token_id": config.bos_token_id, "pad_token_id": config.pad_token_id}
    values["eos_token_id"] = found[0] if len(found) == 1 else found or None
    return {name: value for name, value in values.items() if value is not None}
