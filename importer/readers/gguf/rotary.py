"""Rotary position embeddings: what metadata and factor tensors say, as transformers' rope_parameters.

llama.cpp divides the frequency of each pair of dimensions by a stored factor, where a file has them: Llama 3 writes its
scaling so (rope_freqs.weight), Gemma 4 which pairs rotate, and Phi 3 its long and short factors.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from dualbinary import InputError
from importer.readers.gguf.container import GgufTensor
from importer.readers.gguf.keys import Keys

__all__ = ["FACTOR_TENSORS", "FREQUENCIES", "llama3_factors", "rope_parameters"]

FREQUENCIES = "rope_freqs.weight"
_LONG, _SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
FACTOR_TENSORS = (FREQUENCIES, _LONG, _SHORT)
"""Tensors that are no parameters; `rope_parameters` says what they do."""

_STILL = np.float32(1e30)  # the factor of pairs that do not rotate: Gemma 4's rotation of a share of each head
_LOW, _HIGH = 1.0, 4.0  # of every published model with Llama 3's scaling
_ORIGINALS = [1 << exponent for exponent in range(10, 18)]  # context lengths before the scaling, to be tried
# Factors are computed in float32 from wavelengths that are, a few roundings of 2^-24 each; what they do to a factor
# in the blend between two of its parts is below 2^-16 of it.
_TOLERANCE = 2.0**-16


def rope_parameters(keys: Keys, dimensions: int) -> dict[str, Any]:
    """rope_parameters for `dimensions` rotated dimensions. Raises InputError for a scaling that is not expressed."""
    theta = keys.real("rope.freq_base", 10000.0)
    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": theta, **_scaling(keys)}
    tensors = keys.container.tensors
    if _LONG in tensors or _SHORT in tensors:
        return parameters | _long_rope(keys, dimensions)
    if parameters["rope_type"] == "longrope":
        raise InputError(f"{keys.container.path}: scaling type longrope without the tensors {_LONG} and {_SHORT}")
    if FREQUENCIES in tensors:
        factors = _factors(keys, tensors[FREQUENCIES], dimensions)
        if np.any(factors != 1):
            if parameters["rope_type"] != "default":
                raise InputError(f"{keys.container.path}: {FREQUENCIES} beside a scaling of another type")
            if set(factors[factors != 1]) <= {_STILL}:
                share = float(np.mean(factors == 1))
                return parameters | {"rope_type": "proportional", "partial_rotary_factor": share}
            return parameters | _llama3(keys, factors, theta)
    return parameters


def _scaling(keys: Keys) -> dict[str, Any]:
    """The scaling that metadata alone says."""
    kind = keys.text("rope.scaling.type", "linear")  # older files give the factor alone
    keys.ignore("rope.scaling.finetuned", "rope.scaling.original_context_length")
    factor = keys.real("rope.scaling.factor", keys.real("rope.scale_linear", 1.0))
    if kind == "longrope":
        return {"rope_type": kind}
    if kind == "yarn":
        return _yarn(keys, factor)
    if factor == 1 or kind == "none":
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    raise keys.fail("rope.scaling.type", "none, linear, yarn or longrope", kind)


def _yarn(keys: Keys, factor: float) -> dict[str, Any]:
    original = keys.whole("rope.scaling.original_context_length")
    parameters = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    for name, default in (("beta_fast", 32.0), ("beta_slow", 1.0)):
        parameters[name] = keys.real(f"rope.scaling.yarn_{name}", default)
    return parameters


def _factors(keys: Keys, tensor: GgufTensor, dimensions: int) -> npt.NDArray[np.float32]:
    if tensor.type.name != "F32" or tensor.shape != (dimensions // 2,):
        raise InputError(
            f"{keys.container.path}: tensor {tensor.name!r}: expected F32 [{dimensions // 2}], a factor for each pair "
            f"of rotated dimensions, got {tensor.type.name} {list(tensor.shape)}"
        )
    factors = tensor.data.view("<f4")
    if not np.isfinite(factors).all() or (factors <= 0).any():
        raise InputError(f"{keys.container.path}: tensor {tensor.name!r}: expected finite factors above 0")
    return factors


def _long_rope(keys: Keys, dimensions: int) -> dict[str, Any]:
    tensors = keys.container.tensors
    if _LONG not in tensors or _SHORT not in tensors:
        raise InputError(f"{keys.container.path}: expected both {_LONG} and {_SHORT}, got one of them")
    long, short = (_factors(keys, tensors[name], dimensions) for name in (_LONG, _SHORT))
    original = keys.whole("rope.scaling.original_context_length")
    factor = keys.whole("context_length") / original
    return {
        "rope_type": "longrope",
        "long_factor": long.tolist(),
        "short_factor": short.tolist(),
        "factor": factor,
        "original_max_position_embeddings": original,
        "attention_factor": keys.real("rope.scaling.attn_factor", 1.0),
    }


def _llama3(keys: Keys, factors: npt.NDArray[np.float32], theta: float) -> dict[str, Any]:
    """Llama 3's scaling that has these factors."""
    factor = round(float(factors.max()), 3)  # whole numbers in every published model, but for roundings
    for original in _ORIGINALS:
        if np.allclose(llama3_factors(factor, original, theta, 2 * len(factors)), factors, rtol=_TOLERANCE, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": _LOW,
                "high_freq_factor": _HIGH,
                "original_max_position_embeddings": original,
            }
    raise InputError(
        f"{keys.container.path}: the factors of {FREQUENCIES} are not those of Llama 3's scaling, and this release "
        "knows no other; give the full-precision model"
    )


def llama3_factors(factor: float, original: int, theta: float, dimensions: int) -> npt.NDArray[np.float64]:
    """The factors of Llama 3's scaling: long waves are stretched by `factor`, short ones stay, between goes a blend."""
    wavelengths = 2 * math.pi * theta ** (np.arange(0, dimensions, 2) / dimensions)
    blend = np.clip((original / wavelengths - _LOW) / (_HIGH - _LOW), 0, 1)
    return 1 / ((1 - blend) / factor + blend)
