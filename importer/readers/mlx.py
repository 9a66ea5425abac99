"""MLX, mode "affine": steps and offsets for each group, of any sign; embeddings too.

    weight   uint32 [N, K·b/32]    q, dense along K
    scales   float [N, K/G]
    biases   float [N, K/G]        offsets; not the bias of the layer, which is `bias`

w[n,k] = scales[n,g] · q[n,k] + biases[n,g]. The block is `quantization`, with an entry for each module that differs.
transformers writes the same under quant_method "metal", with `qbiases`.

Source: MLX 0.32.4, mx.quantize; mlx-lm 0.32.2, mlx_lm/utils.py; transformers 5.23, integrations/metal_quantization.py.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dualbinary import InputError
from importer.model import LowBitModel, Numbers, PackedWeight, PlainTensor
from importer.readers.directory import FLOATS, Directory, bits_of, group_size_of, integer, step_of
from importer.readers.words import dense, dense_words

__all__ = ["as_transformers", "is_folded", "mlx_weights", "open_mlx", "recognises"]

_WIDTHS = (2, 3, 4, 5, 6, 8)
_CONVOLUTIONS = (".conv.weight", ".conv1d.weight")
_ADD_ONE = ("qwen3_5_text",)
_NORMS = re.compile(r".*(layernorm|\.q_norm|\.k_norm|model\.norm)\.weight")  # that of linear attention is none of them


def is_folded(path: Path, config: dict[str, Any]) -> bool:
    """Whether a directory declares that inputs are rotated; `mlx_hadamard.py` reads it."""
    named = re.fullmatch(r"prism_hadamard_\w+", str(config.get("model_type"))) or "hadamard_config" in config
    return bool(named) or (path / "hadamard.json").is_file()


def recognises(path: Path, config: dict[str, Any]) -> bool:
    """Whether config.json has MLX's block, or that of transformers for the same."""
    if is_folded(path, config):
        return False
    block = config.get("quantization_config")
    method = block.get("quant_method") if isinstance(block, dict) else None
    return method in ("metal", "mlx") or (method is None and isinstance(config.get("quantization"), dict))


def open_mlx(path: Path, config: dict[str, Any]) -> LowBitModel:
    """The reader's `open`."""
    directory = Directory.open(path, config)
    model = directory.model("mlx", mlx_weights(directory, config))
    return replace(model, tensors=as_transformers(model.tensors, model.config.get("model_type")))


def as_transformers(tensors: Mapping[str, PlainTensor], model_type: str | None) -> dict[str, PlainTensor]:
    """Plain tensors of a model of this type as transformers has them.

    mlx-lm turns the short convolutions of each channel, [C, 1, kernel], into [C, kernel, 1], and where it does so it
    adds to norm weights of `_ADD_ONE` the one that transformers adds as the model runs.
    """
    turned = {name for name, it in tensors.items() if name.endswith(_CONVOLUTIONS) and it.shape[2:] == (1,)}
    found = {name: _turned(tensor) if name in turned else tensor for name, tensor in tensors.items()}
    if turned and model_type in _ADD_ONE:
        found |= {name: tensor.as_float(_less_one) for name, tensor in tensors.items() if _NORMS.fullmatch(name)}
    return found


def _turned(tensor: PlainTensor) -> PlainTensor:
    channels, kernel, one = tensor.shape
    read: Callable[[], np.ndarray] = tensor.read
    return PlainTensor((channels, one, kernel), tensor.dtype, lambda: np.ascontiguousarray(read().swapaxes(1, 2)))


def _less_one(values: np.ndarray) -> np.ndarray:
    return values - np.float32(1)


def mlx_weights(directory: Directory, config: dict[str, Any]) -> dict[str, PackedWeight]:
    """The packed weights of a directory by their names there."""
    where = "quantization" if isinstance(config.get("quantization"), dict) else "quantization_config"
    block = config.get(where)
    if not isinstance(block, dict):
        raise InputError(f"{directory.path}: config.json: {where}: expected MLX's block, got {block!r}")
    _affine(block, where)
    bits, size = integer(block, "bits", where), integer(block, "group_size", where)
    last = "biases" if where == "quantization" else "qbiases"
    weights = {}
    for module in directory.modules("scales"):
        own = block.get(module, {})
        entry: Mapping[str, Any] = own if isinstance(own, dict) else {}
        if own is False:
            raise InputError(f"{module}.scales: not expected; {where}.{module} says that it is not quantized")
        _affine(entry, f"{where}.{module}")
        own_bits = integer(entry, "bits", f"{where}.{module}", bits)
        own_size = integer(entry, "group_size", f"{where}.{module}", size)
        weights[module] = _weight(directory, module, own_bits, own_size, last)
    return weights


def _affine(block: Mapping[str, Any], where: str) -> None:
    mode = block.get("mode") or "affine"
    if mode != "affine":
        raise InputError(
            f"{where}.mode: expected affine, got {mode!r}; its levels are not even, give the full-precision model"
        )


def _weight(directory: Directory, module: str, bits: int, size: int, last: str) -> PackedWeight:
    N, words = directory.take(f"{module}.weight", ("U32",), (None, None))
    _, groups = directory.take(f"{module}.scales", FLOATS, (N, None), "as many rows as the weight")
    directory.take(f"{module}.{last}", FLOATS, (N, groups), "as many as scales")
    fits = {b: words * 32 % b == 0 and -(-(words * 32 // b) // size) == groups for b in _WIDTHS if size > 0}
    bits = bits_of(module, [bits], fits)
    K = words * 32 // bits
    G = group_size_of(module, [size], K, groups)
    names = [f"{module}.{part}" for part in ("weight", "scales", last)]
    kind = f"mlx, {bits} bits, groups of {size}"
    assert words == dense_words(bits, K)
    read = _reading(directory, module, bits, K, last)
    return PackedWeight(kind, N, K, bits, G, directory.bits_per_weight(names, N * K), read)


def _reading(directory: Directory, module: str, bits: int, K: int, last: str) -> Callable[[], Numbers]:
    def read() -> Numbers:
        q = dense(directory.array(f"{module}.weight"), bits, K)
        step = step_of(directory.array(f"{module}.scales"))
        offset = step_of(directory.array(f"{module}.{last}"))
        common = np.result_type(step, offset)
        return Numbers(np.ascontiguousarray(q), step.astype(common), None, offset.astype(common))

    return read
