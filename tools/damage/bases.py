"""Small whole inputs, to be damaged: directories, files and requests as name and content."""

import io
import json
import struct
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tools.fuzz.readers import target
from tools.fuzz.readers.sections import files_of

__all__ = [
    "Files",
    "changed_config",
    "checkpoint",
    "decoder",
    "files_of_index",
    "gguf",
    "llama",
    "product",
    "quantizer",
    "with_header",
    "with_model",
    "with_number",
]

Files = Mapping[str, bytes]

WORDS = 259  # 256 bytes and three special tokens
_SPECIAL = ("<end>", "<user>", "<assistant>")
TEMPLATE = "{% for m in messages %}<user>{{ m.content }}<end>{% endfor %}<assistant>"


@cache
def _seeds(name: str) -> tuple[bytes, ...]:
    return tuple(target(name).seeds())


def llama() -> Files:
    """A Hugging Face directory of a llama."""
    return files_of(_seeds("model_directory")[0])


def files_of_index() -> Files:
    """A Hugging Face directory of two files and an index."""
    return files_of(_seeds("model_directory")[3])


def checkpoint(number: int = 1) -> Files:
    """A checkpoint of ours: 0 in two files with an index, 1 with rotations, 2 with an order of inputs."""
    return files_of(_seeds("checkpoint")[number])


def gguf() -> bytes:
    """A GGUF file of a llama."""
    return _seeds("gguf")[3]


def quantizer(number: int) -> Files:
    """A directory of another quantizer, by its place in tools.fuzz.readers.quantizers."""
    return files_of(_seeds("quantizers")[number])


def product() -> Files:
    """An ONNX file with one DualBinaryMatMul, its data in a file beside it."""
    return files_of(_seeds("onnx_model")[0])


@cache
def _decoder_model() -> bytes:
    table = numpy_helper.from_array(np.eye(WORDS, dtype=np.float32), "table")
    ids = [helper.make_tensor_value_info(name, TensorProto.INT64, [1, "s"]) for name in ("input_ids", "attention_mask")]
    logits = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "s", WORDS])]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["logits"])]
    graph = helper.make_graph(nodes, "g", ids, logits, initializer=[table])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    return model.SerializeToString()


def _tokenizer() -> bytes:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIAL))
    return tokenizer.to_str().encode()


@cache
def decoder() -> Files:
    """An exported model that says what it is told, with all that lies beside one."""
    return {
        "model.onnx": _decoder_model(),
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": json.dumps({"eos_token": "<end>", "chat_template": TEMPLATE}).encode(),
        "genai_config.json": json.dumps({"model": {"context_length": 64, "eos_token_id": 256}}).encode(),
    }


def changed_config(files: Files, change: Callable[[dict[str, Any]], object], name: str = "config.json") -> Files:
    """The files with one JSON file changed."""
    config = json.loads(files[name])
    change(config)
    return {**files, name: json.dumps(config).encode()}


def with_header(files: Files, change: Callable[[dict[str, Any]], object], name: str = "model.safetensors") -> Files:
    """The files with the header of a safetensors file changed, its length with it."""
    content = files[name]
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return {**files, name: struct.pack("<Q", len(text)) + text + content[8 + length :]}


def with_model(files: Files, change: Callable[[onnx.ModelProto], object]) -> Files:
    """The files with the ONNX model changed."""
    model = onnx.load(io.BytesIO(files["model.onnx"]), load_external_data=False)
    change(model)
    return {**files, "model.onnx": model.SerializeToString()}


def with_number(content: bytes, after: bytes, value: int, size: int = 4, skip: int = 0) -> bytes:
    """The content with another whole number, `skip` bytes after the first place of `after`."""
    at = content.index(after) + len(after) + skip
    return content[:at] + (value % (1 << 8 * size)).to_bytes(size, "little") + content[at + size :]
