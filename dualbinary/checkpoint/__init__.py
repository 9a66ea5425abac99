"""The checkpoint: an ordinary Hugging Face directory in which quantized modules store planes and scales.

    config.json                         with the block "quantization_config" that QuantizationConfig describes
    model.safetensors                   or model-00001-of-0000N.safetensors with model.safetensors.index.json
        <module>.planes                 uint8 [P, N, Kp/8 + Z], layout 1, in place of <module>.weight
        <module>.scales                 float16, float32, bfloat16 [C, N, Kp/G] or uint8 [C, N, 2 + Kp/G]
        <module>.input_order            int32 [K], where column k of the planes multiplies input input_order[k] of X
        <module>.rotation_signs         int8 [K], where the planes multiply H(signs * X), not X: 1 or -1
        everything else                 as in the full-precision model

Reading and writing tensors needs the `safetensors` package, and writing scales of type bfloat16 `ml_dtypes` too; both
are imported only there.
"""

from dualbinary.checkpoint.config import FORMAT_VERSION, METHODS, PER_TENSOR, QUANT_METHOD, QuantizationConfig
from dualbinary.checkpoint.tensors import (
    CONFIG_FILE,
    INDEX_FILE,
    MODULE_PARTS,
    SCALE_TYPES,
    SINGLE_FILE,
    StoredTensor,
    check_modules,
    is_computed,
    load_module,
    load_order,
    load_rotation,
    order_name,
    planes_name,
    quantized_by,
    read_quantization_config,
    rotation_signs_name,
    scales_name,
    stored_tensors,
)
from dualbinary.checkpoint.text_part import read_model
from dualbinary.checkpoint.write import write_checkpoint
from dualbinary.contract.weight import PER_CHANNEL

__all__ = [
    "CONFIG_FILE",
    "FORMAT_VERSION",
    "INDEX_FILE",
    "METHODS",
    "MODULE_PARTS",
    "PER_CHANNEL",
    "PER_TENSOR",
    "QUANT_METHOD",
    "SCALE_TYPES",
    "SINGLE_FILE",
    "QuantizationConfig",
    "StoredTensor",
    "check_modules",
    "is_computed",
    "load_module",
    "load_order",
    "load_rotation",
    "order_name",
    "planes_name",
    "quantized_by",
    "read_model",
    "read_quantization_config",
    "rotation_signs_name",
    "scales_name",
    "stored_tensors",
    "write_checkpoint",
]
