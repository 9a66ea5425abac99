"""The folder that transformers.js loads as it is: `--layout-for transformersjs`.

    config.json             with "transformers.js_config": which of the files in onnx/ to take, and in how many parts
    tokenizer_config.json   with the chat template in it: the library reads no chat_template.jinja
    onnx/model_q4.onnx      the suffix is its word for the width of weights and the type of activations
    onnx/model_q4.onnx_data, onnx/model_q4.onnx_data_1, ...   a browser holds no part of 2 GiB

Read in and run with its version 4.3.2: src/utils/dtypes.js, src/utils/model-loader.js, src/configs.js,
src/tokenization_utils.js, src/models/registry.js.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import onnx
import onnx_ir as ir

from dualbinary import InputError
from dualbinary.files.cache_names import PAST_STATE
from exporter.export_folder import ExportFolder

__all__ = ["adapt_graph", "adapt_tokenizer_config", "folder", "js_config", "js_notes", "model_names", "split_data"]

FOLDER = "onnx"
MODEL = "model"
MAX_CHUNK_BYTES = 2_000_000_000
"""Bytes of a part of the data file, at most; a larger tensor is a part of its own."""

_MAX_CHUNKS = 100  # MAX_EXTERNAL_DATA_CHUNKS
_BATCH = "batch_size"  # the one name of a dimension that the library knows; it takes others for 0
_SUFFIXES = {"q1": "_q1", "q2": "_q2", "q4": "_q4", "q8": "_quantized", "q1f16": "_q1f16", "q2f16": "_q2f16"}
_SUFFIXES |= {"q4f16": "_q4f16"}
_CACHE_TYPES = {"fp32": "float32", "fp16": "float16"}
# Decoders of ours that its table of causal models lacks, and one of other names for the cache.
_UNKNOWN = frozenset(
    {
        "bitnet",
        "cwm",
        "deepseek_v2",
        "dots1",
        "exaone4",
        "flex_olmo",
        "gemma4_text",
        "gemma4_unified_text",
        "glm4",
        "gpt_bigcode",
        "granitemoe",
        "hyperclovax",
        "mixtral",
        "nemotron",
        "olmoe",
        "openai-gpt",
        "persimmon",
        "seed_oss",
    }
)


def model_names() -> list[str]:
    """The models and parts of data that an export may write, of any width and type."""
    return [name for place in map(_folder, _SUFFIXES) for name in (place.model, *_part_names(place.data, _MAX_CHUNKS))]


def folder(planes: Mapping[int, int], activations: str) -> ExportFolder:
    """That of a model with so many weights of each number of planes, whose activations are fp32 or fp16."""
    most = max(planes, key=lambda count: (planes[count], count), default=4)
    width = next((width for width in (1, 2, 4) if most <= width), 8)
    return _folder(f"q{width}f16" if activations == "fp16" and width < 8 else f"q{width}")


def _folder(dtype: str) -> ExportFolder:
    model = PurePosixPath(FOLDER, f"{MODEL}{_SUFFIXES[dtype]}.onnx")
    return ExportFolder(str(model), f"{model}_data", dtype)


def js_config(place: ExportFolder, chunks: int, cache_type: str) -> dict[str, Any]:
    """The value of "transformers.js_config" in config.json."""
    config: dict[str, Any] = {
        "dtype": place.dtype,
        "use_external_data_format": {PurePosixPath(place.model).name: chunks},
    }
    if cache_type in _CACHE_TYPES:  # for version 3; 4 asks the model
        config["kv_cache_dtype"] = _CACHE_TYPES[cache_type]
    return config


def adapt_tokenizer_config(config: Mapping[str, Any] | None, template: str | None) -> dict[str, Any]:
    """tokenizer_config.json with the content of chat_template.jinja in it."""
    adapted = dict(config or {})
    if template is not None:
        adapted["chat_template"] = template
    return adapted


def refuse_states(model: ir.Model, model_type: str) -> None:
    """Raise InputError for layers whose states the library calls by other names."""
    if any(str(value.name).startswith(PAST_STATE) for value in model.graph.inputs):
        raise InputError(
            f"--layout-for transformersjs: a {model_type} has layers with states, whose inputs have other names there; "
            "leave --layout-for out, and run it with examples/node or examples/web"
        )


def adapt_graph(proto: onnx.ModelProto) -> None:
    """Give the batch the name by which the library knows it."""
    graph = proto.graph
    names = {value.type.tensor_type.shape.dim[0].dim_param for value in graph.input if value.name == "input_ids"}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = _BATCH


def split_data(proto: onnx.ModelProto, data: Path, most: int = MAX_CHUNK_BYTES) -> list[Path]:
    """Part the data file of `proto` into files of up to `most` bytes, and point its tensors there.

    Returns the parts; one is the file itself. Raises InputError where there would be more than the library reads.
    """
    tensors = [tensor for tensor in proto.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    entries = [{entry.key: entry for entry in tensor.external_data} for tensor in tensors]
    ranges = sorted({(int(entry["offset"].value), int(entry["length"].value)) for entry in entries})
    starts = [0]
    for offset, length in ranges:
        if offset + length - starts[-1] > most and offset > starts[-1]:
            starts.append(offset)
    if len(starts) > _MAX_CHUNKS:
        raise InputError(f"--layout-for transformersjs: {len(starts)} data files, and the library reads {_MAX_CHUNKS}")
    parts = list(map(data.with_name, _part_names(data.name, len(starts))))
    for entry in entries:
        offset = int(entry["offset"].value)
        part = max(place for place, start in enumerate(starts) if start <= offset)
        entry["location"].value = parts[part].name
        entry["offset"].value = str(offset - starts[part])
    _cut(data, starts, parts)
    return parts


def _part_names(data: str, count: int) -> list[str]:
    return [data, *(f"{data}_{number}" for number in range(1, count))]


def _cut(data: Path, starts: Iterable[int], parts: Iterable[Path]) -> None:
    """Move what follows each start into its part, the last first, so that no byte is on the disk twice for long."""
    with open(data, "rb+") as file:
        for start, part in reversed(list(zip(starts, parts, strict=True))[1:]):
            file.seek(start)
            with open(part, "wb") as target:
                while block := file.read(16 << 20):
                    target.write(block)
                target.flush()
                os.fsync(target.fileno())
            file.truncate(start)


def js_notes(model_type: str) -> list[str]:
    """What the library, 4.3.2, does not do with the model."""
    if model_type not in _UNKNOWN:
        return []
    return [f"transformers.js 4.3.2 has no causal model of type {model_type}, and so loads this folder without success"]
