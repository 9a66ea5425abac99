"""The readers, one for each format: how a source is recognised, what it can hold, where that is documented."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualbinary import InputError
from dualbinary.files.json_objects import read_json_object
from dualbinary.files.model_files import CONFIG_FILE
from importer.model import LowBitModel
from importer.readers import (
    auto_round,
    awq,
    bitnet,
    bitsandbytes,
    compressed_tensors,
    gemma_qat,
    gptq,
    hqq,
    mlx,
    mlx_hadamard,
)
from importer.readers.gguf import is_gguf, open_gguf
from importer.readers.refusals import why_not

__all__ = ["READERS", "Reader", "open_model"]


@dataclass(frozen=True)
class Reader:
    """A format that can be read.

    Attributes:
        name: of the format, as its makers write it.
        recognises: takes the path and its config.json ({} for a file) and tells if this reader is meant; reads no more
            than the first bytes of a file.
        holds: what weights of it can be, for people.
        documented: where the format is specified.
        open: reads headers and returns the model. Raises InputError for whatever is damaged or cannot be exact.
    """

    name: str
    recognises: Callable[[Path, dict[str, Any]], bool]
    holds: str
    documented: str
    open: Callable[[Path, dict[str, Any]], LowBitModel]


READERS: tuple[Reader, ...] = (
    Reader(
        "gguf",
        is_gguf,
        "Q1_0, Q2_0, TQ1_0, TQ2_0, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, "
        "PQ2_0, PTQ1_0; F32, F16, BF16; inputs rotated by prism.hadamard.*",
        "ggml, docs/gguf.md; llama.cpp, ggml/src/ggml-common.h; readers/hadamard.py",
        open_gguf,
    ),
    Reader(
        "gptq",
        gptq.recognises,
        "2 to 8 bits, zero points of each group, act-order",
        "GPTQModel 7.7.0, gptqmodel/utils/model.py and gptqmodel/quantization/config.py",
        gptq.open_gptq,
    ),
    Reader(
        "awq",
        awq.recognises,
        "4 bits, zero points of each group, packing gemm",
        "AutoAWQ 0.2.9, awq/modules/linear/gemm.py",
        awq.open_awq,
    ),
    Reader(
        "auto-round",
        auto_round.recognises,
        "2 to 8 bits in the words of GPTQ or AWQ, widths by layer",
        "AutoRound 0.16.1, auto_round/export/export_to_autoround/export.py",
        auto_round.open_auto_round,
    ),
    Reader(
        "compressed-tensors",
        compressed_tensors.recognises,
        "1 to 8 bits, pack-quantized or int-quantized",
        "compressed-tensors 0.20.0, compressed_tensors/compressors",
        compressed_tensors.open_compressed_tensors,
    ),
    Reader(
        "mlx with rotated inputs",
        mlx_hadamard.recognises,
        "2 to 8 bits, affine, of qwen3_5; its runtime is not run",
        "prism-ml/Ternary-Bonsai-2-27B-mlx-2bit, config.json and hadamard.json",
        mlx_hadamard.open_mlx_hadamard,
    ),
    Reader(
        "mlx",
        mlx.recognises,
        "2 to 8 bits, affine, embeddings too",
        "MLX 0.32.4, mx.quantize; mlx-lm 0.32.2, mlx_lm/utils.py",
        mlx.open_mlx,
    ),
    Reader(
        "bitnet",
        bitnet.recognises,
        "ternary weights with one scale",
        "transformers 5.23, integrations/bitnet.py",
        bitnet.open_bitnet,
    ),
    Reader(
        "gemma",
        gemma_qat.recognises,
        "2, 4 and 8 bits with a scale for each output, embeddings too",
        "transformers 5.23, integrations/gemma_quant.py",
        gemma_qat.open_gemma,
    ),
    Reader(
        "hqq",
        hqq.recognises,
        "1 to 8 bits, groups along inputs (axis 1)",
        "hqq 0.2.8.post1, hqq/core/bitpack.py and hqq/core/quantize.py",
        hqq.open_hqq,
    ),
    Reader(
        "bitsandbytes",
        bitsandbytes.recognises,
        "8 bits with a scale for each output (LLM.int8)",
        "bitsandbytes 0.50.2, bitsandbytes/backends/default/ops.py",
        bitsandbytes.open_bitsandbytes,
    ),
)
"""All of them, in the order in which they are asked."""


def open_model(source: Path) -> LowBitModel:
    """The low-bit model at `source`, a file or a directory. Raises InputError where no reader knows it."""
    if not source.exists():
        raise InputError(f"{source}: no such file or directory")
    config = read_json_object(source / CONFIG_FILE) if source.is_dir() else {}
    for reader in READERS:
        if reader.recognises(source, config):
            return reader.open(source, config)
    known = f"this release reads {', '.join(reader.name for reader in READERS)}"
    if not source.is_dir():
        raise InputError(f"{source}: not a file of a known format; {known}")
    refused = why_not(source, config)
    if refused is None:
        raise InputError(f"{source}: nothing says that another tool quantized it; python -m exporter takes it as it is")
    raise InputError(f"{refused}; {known}")
