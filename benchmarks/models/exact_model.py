"""The model that a GGUF file stores, computed in float32 by transformers: what engines that round are held against."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
import transformers

from importer.model import Numbers
from importer.readers import open_model
from importer.readers.gguf.config import family_of, model_config
from importer.readers.gguf.container import open_container
from importer.readers.gguf.keys import Keys
from importer.readers.gguf.names import parameters

__all__ = ["ExactModel", "exact_weights"]


class ExactModel:
    """The model in PyTorch; weights and activations are float32."""

    def __init__(self, path: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        stored = open_model(path)
        config = transformers.AutoConfig.for_model(**stored.config)
        model: Any = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        own = dict(model.named_parameters())
        with torch.no_grad():
            for name, tensor in stored.tensors.items():
                own[name].copy_(torch.from_numpy(tensor.read().astype(np.float32)))
            for name, values in exact_weights(path):
                own[name].copy_(torch.from_numpy(values))
        self._model = model

    def logits(self, tokens: Sequence[int], count: int) -> np.ndarray:
        """Compute float32 [count, V], the logits of the last `count` tokens of a sequence, in one pass."""
        with torch.inference_mode():
            found = self._model(torch.tensor([list(tokens)]), use_cache=False, logits_to_keep=count).logits[0]
        return found[-count:].numpy()


def exact_weights(path: Path) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Yield the names and values of all quantized parameters, by gguf's arithmetic where it knows their type.

    The importer rounds scales that are products to float16 (docs/howto/import.md); here they are not rounded.
    """
    container, weights = open_container(path), open_model(path).weights
    keys = Keys(container)
    family = family_of(keys)
    config = model_config(keys, family)
    for name, place in parameters(keys, config, family)[0].items():
        if place.module not in weights or not place.name.endswith(".weight"):
            continue
        tensor = container.tensors[name]
        kind = gguf.GGMLQuantizationType.__members__.get(tensor.type.name)
        if kind is None:
            values = _values(weights[place.module].read())
        else:
            values = gguf.dequantize(tensor.data.reshape(tensor.shape[0], -1), kind)
            rows = family.rows(name, tensor.shape[0], config)
            values = values if rows is None else values[rows]
        yield place.name, np.ascontiguousarray(values.T if place.transposed else values)


def _values(numbers: Numbers) -> npt.NDArray[np.float32]:
    """Multiply the steps of a type without offsets; a float16 and eight bits are exact in float32."""
    assert numbers.zero is not None
    shape = (*numbers.step.shape, -1)
    levels = numbers.q.astype(np.float32) - np.float32(numbers.zero)
    return (levels.reshape(shape) * numbers.step.astype(np.float32)[..., None]).reshape(numbers.q.shape)
