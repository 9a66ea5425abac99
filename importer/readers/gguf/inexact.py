"""Types of GGUF whose levels are not even: refused, or dequantized by the gguf library for a new fit."""

import numpy as np
import numpy.typing as npt

from importer.model import InexactWeight
from importer.readers.gguf.container import GgufTensor

__all__ = ["inexact_weight"]

_WHY = {
    "IQ": "its levels are those of a codebook",
    "MXFP4": "its levels are those of a floating-point number",
    "NVFP4": "its levels are those of a floating-point number, scaled by another tensor",
    "Q8_": "it is a form of activations inside llama.cpp, not of weights",
    "Q1_0 of 512": "it is a form of Tencent's with the number of llama.cpp's Q1_0, nowhere specified",
}
_DEQUANTIZED = ("IQ", "MXFP4")  # what the library dequantizes alone, without a further tensor
_ROWS = 1 << 22  # weights at a time


def inexact_weight(tensor: GgufTensor) -> InexactWeight | None:
    """The weight [N, K] of a tensor whose type is known and not even; None where no weight has the type."""
    kind = tensor.type
    why = next((why for begin, why in _WHY.items() if kind.name.startswith(begin)), None)
    if why is None:
        return None
    N, K = tensor.shape
    read = (lambda: _dequantized(tensor)) if kind.name.startswith(_DEQUANTIZED) else None
    return InexactWeight(kind.name, N, K, 8 * kind.size / kind.weights, why, read)


def _dequantized(tensor: GgufTensor) -> npt.NDArray[np.float32]:
    import gguf

    N, K = tensor.shape
    data = tensor.data.reshape(N, -1)
    result = np.empty((N, K), np.float32)
    rows = max(1, _ROWS // K)
    kind = gguf.GGMLQuantizationType[tensor.type.name]
    for begin in range(0, N, rows):
        result[begin : begin + rows] = gguf.dequantize(data[begin : begin + rows], kind)
    return result
