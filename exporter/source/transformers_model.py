"""What transformers makes of a model directory: its configuration, its class, the shapes of its tensors, no weights.

transformers decides what a directory means. Where it refuses config.json, so do we, in its words; a value that it does
not read, the graph builder must not read either; and a tensor that it would rename has the new name for us, too.
"""

import importlib.util
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.pytorch_utils import Conv1D

from dualbinary import InputError
from dualbinary.files.model_files import CONFIG_FILE

__all__ = ["TransformersModel", "directory_of"]

_QUANTIZATION = "quantization_config"  # for which transformers and the builder have quantized layers of their own
_DTYPES = ("dtype", "torch_dtype")  # how weights are stored; the graph's type is an option of the export
_OLD_ROPE_TYPES = {"su": "longrope"}  # names that configuration files had before transformers settled on another one
_ROPE_KEYS = ("rope_scaling", "rope_parameters")
# Rooms of transformers, beside a model's own modules, that read values of a configuration by name.
_SHARED_MODULES = ("transformers.modeling_rope_utils", "transformers.masking_utils", "transformers.cache_utils")


class TransformersModel:
    """The causal language model that transformers makes of config.json.

    Attributes:
        config: the configuration object.
    """

    def __init__(self, directory: Path, raw: dict[str, Any]) -> None:
        """Read `raw`, the values of config.json in `directory`. Raises InputError where transformers refuses them."""
        self._path = directory / CONFIG_FILE
        self._raw = {key: value for key, value in raw.items() if key not in (_QUANTIZATION, *_DTYPES)}
        model_type = str(raw.get("model_type"))
        if model_type not in transformers.CONFIG_MAPPING:
            raise InputError(
                f"{self._path}: transformers {transformers.__version__} has no model_type {model_type!r}, so nothing "
                "says what its export should compute; convert the model to a type that transformers has"
            )
        try:
            with directory_of(self._raw) as plain:
                self.config = transformers.AutoConfig.from_pretrained(plain, local_files_only=True)
        except Exception as error:  # whatever the validation of a value raises
            raise InputError(
                f"{self._path}: transformers {transformers.__version__} refuses it: {_reason(error)}{self._advice()}"
            ) from error

    @property
    def ties(self) -> bool:
        """True where the head is the token embedding."""
        return bool(getattr(self.config, "tie_word_embeddings", False))

    def read_values(self) -> dict[str, Any]:
        """The values of config.json that transformers reads.

        A value is left out where neither the type's configuration class nor its model code knows the name: such a
        leftover of another type means nothing to transformers, and may mean something to the graph builder.
        """
        known = self._known_names
        attributes = vars(self.config)
        return {key: value for key, value in self._raw.items() if key not in attributes or key in known}

    @cached_property
    def base_prefix(self) -> str:
        """What names of decoder tensors begin with, such as "model."; transformers adds it where a file lacks it."""
        return f"{self._class.base_model_prefix}."

    @cached_property
    def meta_model(self) -> torch.nn.Module:
        """The model without memory for its parameters. Raises InputError where transformers cannot make it."""
        try:
            with torch.device("meta"):
                return self._class(self.config)
        except Exception as error:  # values that contradict one another raise anything
            raise InputError(
                f"{self._path}: transformers {transformers.__version__} cannot make a model of it: {_reason(error)}"
            ) from error

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor of the model, by name."""
        return {name: tuple(tensor.shape) for name, tensor in self.meta_model.state_dict().items()}

    def ignores(self, name: str) -> bool:
        """Tell if transformers leaves a tensor of this name unread, where a file has it and the model has not."""
        patterns: Any = getattr(self.meta_model, "_keys_to_ignore_on_load_unexpected", None) or ()
        return any(re.search(pattern, name) for pattern in patterns)

    def linears(self) -> dict[str, tuple[int, int, bool]]:
        """Linear modules without the head: name to (N, K, weight stored as [K, N])."""
        head = self.meta_model.get_output_embeddings()  # type: ignore[operator]
        found: dict[str, tuple[int, int, bool]] = {}
        for name, module in self.meta_model.named_modules():
            if module is head or not isinstance(module, torch.nn.Linear | Conv1D):
                continue
            rows, columns = module.weight.shape
            transposed = isinstance(module, Conv1D)
            found[name] = (columns, rows, True) if transposed else (rows, columns, False)
        return found

    def tables(self) -> dict[str, tuple[int, int]]:
        """Embeddings of tokens and head: name to (V, H); a head that is tied is the embedding."""
        model: Any = self.meta_model
        names = {id(module): name for name, module in model.named_modules()}
        found: dict[str, tuple[int, int]] = {}
        of_layers = getattr(model.base_model, "embed_tokens_per_layer", None)  # of Gemma 4: an input of every layer
        head = None if self.ties else model.get_output_embeddings()
        for module in (model.get_input_embeddings(), of_layers, head):
            weight = getattr(module, "weight", None)
            if isinstance(weight, torch.Tensor) and weight.dim() == 2:  # a matrix
                found[names[id(module)]] = (weight.shape[0], weight.shape[1])
        return found

    @property
    def _class(self) -> Any:
        classes = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
        if type(self.config) not in classes:
            raise InputError(
                f"{self._path}: transformers {transformers.__version__} has no causal language model of model_type "
                f"{self.config.model_type!r}; only decoders can be exported"
            )
        return classes[type(self.config)]

    @cached_property
    def _known_names(self) -> set[str]:
        kind: Any = type(self.config)
        names = {field.name for field in fields(kind)} | set(kind.attribute_map) | {"model_type", *_ROPE_KEYS}
        own = kind.__module__
        for module in (own, own.replace(".configuration_", ".modeling_"), *_SHARED_MODULES):
            spec = importlib.util.find_spec(module)
            if spec is None or spec.origin is None:
                return names | set(self._raw)
            names |= set(re.findall(r"\w+", Path(spec.origin).read_text(encoding="utf-8")))
        return names

    def _advice(self) -> str:
        """The way out where a name is an old one; an empty text elsewhere."""
        for key in _ROPE_KEYS:
            rope = self._raw.get(key)
            for word in ("rope_type", "type"):
                old = rope.get(word) if isinstance(rope, dict) else None
                new = _OLD_ROPE_TYPES.get(old) if isinstance(old, str) else None
                if new is not None:
                    return f"; write {new!r} as the type of {key}, which is what {old!r} is called today"
        return ""


def _reason(error: Exception) -> str:
    """The message of a foreign exception in one line, with its type where it was not meant for a user."""
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    meant = isinstance(error, ValueError | KeyError) or type(error).__name__.startswith("Strict")
    return text if meant else f"{type(error).__name__}: {text}"


@contextmanager
def directory_of(config: dict[str, Any]) -> Iterator[str]:
    """A directory with this config.json alone."""
    with tempfile.TemporaryDirectory(prefix="dualbinary-config-") as directory:
        (Path(directory) / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
        yield directory
