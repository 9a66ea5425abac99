"""Directories that are quantized in a way that no reader knows: refused by name, never read as plain weights."""

import json
from pathlib import Path
from typing import Any

from dualbinary.checkpoint import QUANT_METHOD, stored_tensors
from importer.readers.directory import packed_tensor

__all__ = ["why_not"]

_FLOATS = "its weights are floating-point codes"
_VECTORS = "its weights are vectors of a codebook"

_METHODS = {
    "aqlm": ("AQLM", _VECTORS),
    "vptq": ("VPTQ", _VECTORS),
    "higgs": ("HIGGS", _VECTORS),
    "quip": ("QuIP#", _VECTORS),
    "exl2": ("EXL2", "each row has widths of its own"),
    "exl3": ("EXL3", "its weights are paths of a trellis"),
    "fp8": ("FP8 blocks", _FLOATS),
    "fbgemm_fp8": ("FP8", _FLOATS),
    "modelopt": ("NVIDIA ModelOpt", _FLOATS),
    "mxfp4": ("MXFP4", _FLOATS),
    "mxfp8": ("MXFP8", _FLOATS),
    "nvfp4": ("NVFP4", _FLOATS),
    "fp_quant": ("FP-Quant", _FLOATS),
    "fouroversix": ("Four Over Six", _FLOATS),
    "quanto": ("quanto", "its tensors depend on the machine that packed them"),
    "torchao": ("torchao", "its tensors are pickled objects"),
    "spqr": ("SpQR", "it keeps outliers beside its integers"),
    "quark": ("Quark", "this release has no reader for it"),
    "sinq": ("SINQ", "it scales rows and columns both"),
    "eetq": ("EETQ", "its integers are in the order of one kind of GPU"),
    "gguf": ("GGUF in safetensors", "this release reads GGUF files"),
}
_WAY_OUT = "give the full-precision model"


def why_not(path: Path, config: dict[str, Any]) -> str | None:
    """Why the directory cannot be imported, with the way out; None where nothing says that it is quantized.

    To be asked after all readers. Raises InputError for damaged files.
    """
    block = config.get("quantization_config", config.get("compression_config"))
    if block is not None:
        method = block.get("quant_method") if isinstance(block, dict) else None
        if method == QUANT_METHOD:
            return None
        name, why = _METHODS.get(str(method).lower(), ("a method that this release does not know", "no reader"))
        return f"{path}: quantized with {json.dumps(method)} ({name}: {why}); {_WAY_OUT}"
    if any(path.glob("*.bin")) and not any(path.glob("*.safetensors")):
        return f"{path}: its tensors are pickled, which is not read; save the model as safetensors"
    found = packed_tensor(stored_tensors(path))
    if found is None:
        return None
    return (
        f"{path}: {found} is part of a packed weight, but config.json has no quantization_config that says how it is "
        f"packed; fetch config.json again, or {_WAY_OUT}"
    )
