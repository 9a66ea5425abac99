"""A Hugging Face model directory, plain or a dualbinary checkpoint, validated when it is opened.

Only config.json and safetensors files are read, never pickles. Everything that headers tell is checked here, before any
work.
"""

import itertools
import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open

from dualbinary import InputError
from dualbinary.checkpoint import (
    CONFIG_FILE,
    INDEX_FILE,
    SINGLE_FILE,
    read_model,
    read_quantization_config,
)
from exporter.early_checks import stated_context
from exporter.source.lazy_tensor import LazyTensor, lazy_tensor
from exporter.source.transformers_model import TransformersModel

__all__ = ["ModelDirectory"]

_MAX_CONTEXT = 1 << 21  # twice the longest of published models; the rotation's tables grow with it
# Sixteen times the largest of published models: tables and lists of modules grow with these, too.
_HEAD_SIZES = ("head_dim", "global_head_dim", "rotary_dim", "qk_rope_head_dim")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_LARGEST = dict.fromkeys((*_HEAD_SIZES, *_EXPERTS), 1 << 13)
_WINDOWS = ("sliding_window", "window_size", "local_attention")  # names for it, by model type
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I32": torch.int32,
    "I64": torch.int64,
    "BOOL": torch.bool,
}


class ModelDirectory:
    """A model directory: its configuration and its tensors, read one at a time.

    Of a model that takes pictures or sound too, they are those of the language model inside, by the names of its class.
    """

    def __init__(self, directory: Path) -> None:
        """Open `directory` and read all headers. Raises InputError for anything that cannot be exported."""
        self.directory = directory
        self.quantization = read_quantization_config(directory)
        self._refuse_pickles()
        stored = read_model(directory)
        self.config, self.tensors = stored.config, stored.tensors
        model_type = self.config.get("model_type")
        if not isinstance(model_type, str):
            raise InputError(f"{directory / CONFIG_FILE}: no model_type; not the configuration of a Hugging Face model")
        self.model_type = model_type
        if not self.tensors:
            raise InputError(f"{directory}: its safetensors files hold no tensors")
        for name, tensor in self.tensors.items():
            if tensor.dtype not in _DTYPES:
                raise InputError(f"{tensor.file}: {name} has type {tensor.dtype}; expected one of {', '.join(_DTYPES)}")
        self._check_sizes()

    @property
    def stored_bytes(self) -> int:
        """Bytes of all stored tensors."""
        return sum(math.prod(t.shape) * _DTYPES[t.dtype].itemsize for t in self.tensors.values())

    def read(self, name: str) -> torch.Tensor:
        """A copy of the stored tensor `name`, so that nothing of the file stays mapped."""
        tensor = self.tensors[name]
        with safe_open(tensor.file, framework="pt") as file:
            return file.get_tensor(tensor.name).clone()

    def read_rows(self, name: str, step: int) -> Iterator[torch.Tensor]:
        """The rows of the stored tensor `name`, `step` at a time; only these are in memory."""
        tensor = self.tensors[name]
        rows = tensor.shape[0]
        for begin in range(0, rows, step):
            # A handle keeps what it has read mapped until it is closed; one for each step keeps the mapping small.
            with safe_open(tensor.file, framework="pt") as file:
                yield file.get_slice(tensor.name)[begin : min(begin + step, rows)].clone()

    def lazy(self, name: str) -> LazyTensor:
        """The stored tensor `name`, unread."""
        return lazy_tensor(name, self.tensors[name].shape, _DTYPES[self.tensors[name].dtype])

    @cached_property
    def transformers(self) -> TransformersModel:
        """What transformers makes of config.json. Raises InputError where that is nothing."""
        return TransformersModel(self.directory, self.config)

    @property
    def context_length(self) -> int | None:
        """The context that config.json states, in tokens."""
        return stated_context(self.config)

    @property
    def sliding_window(self) -> int:
        """The sliding window that config.json states or its type has by default, 0 for none."""
        windows = (getattr(self.transformers.config, name, None) for name in _WINDOWS)
        return min(max((window for window in windows if isinstance(window, int)), default=0), _MAX_CONTEXT)

    def _check_sizes(self) -> None:
        """Refuse sizes that would make the graph, not the weights, fill memory."""
        parts = [self.config, *(value for value in self.config.values() if isinstance(value, dict))]
        for key, value in (item for part in parts for item in part.items()):
            if isinstance(value, float) and math.isnan(value):
                raise InputError(f"{self.directory / CONFIG_FILE}: {key} is not a number")
        bounds = {"max_position_embeddings": _MAX_CONTEXT, "n_positions": _MAX_CONTEXT}
        bounds |= dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers"), len(self.tensors))
        decoders = [self.config, *([text] if isinstance(text := self.config.get("text_config"), dict) else [])]
        for part, (key, maximum) in itertools.product(decoders, bounds.items()):
            value = part.get(key)
            if value is not None and not (isinstance(value, int) and 1 <= value <= maximum):
                raise InputError(f"{self.directory / CONFIG_FILE}: {key} must be 1 to {maximum}, got {value!r}")
        for part, (key, maximum) in itertools.product(decoders, _LARGEST.items()):
            if isinstance(value := part.get(key), int) and value > maximum:
                raise InputError(f"{self.directory / CONFIG_FILE}: {key} must be at most {maximum}, got {value}")

    def _refuse_pickles(self) -> None:
        if (self.directory / SINGLE_FILE).is_file() or (self.directory / INDEX_FILE).is_file():
            return
        found = [path.name for pattern in _PICKLES for path in sorted(self.directory.glob(pattern))]
        if found:
            raise InputError(
                f"{self.directory}: weights only as {found[0]}, no safetensors. Such files can run code and are never "
                "read; where you trust them, load the model with transformers and save_pretrained() it"
            )
