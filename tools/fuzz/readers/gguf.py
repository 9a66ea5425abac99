"""A GGUF file: importer.readers.gguf."""

import struct
from collections.abc import Iterator

import numpy as np

from dualbinary import InputError
from importer.readers import open_model
from importer.readers.gguf.types import TYPES
from tools.fuzz.readers.sections import in_directory

NAME = "gguf"

_U32, _F32, _STRING, _ARRAY = 4, 6, 8, 9
_HIDDEN, _INNER, _WORDS = 256, 512, 16
_KEYS = {
    "block_count": 1,
    "context_length": 64,
    "embedding_length": _HIDDEN,
    "feed_forward_length": _INNER,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "rope.dimension_count": 64,
}
_SHAPES = {
    "token_embd.weight": (_WORDS, _HIDDEN),
    "output.weight": (_WORDS, _HIDDEN),
    "output_norm.weight": (_HIDDEN,),
    "blk.0.attn_norm.weight": (_HIDDEN,),
    "blk.0.ffn_norm.weight": (_HIDDEN,),
    "blk.0.attn_q.weight": (_HIDDEN, _HIDDEN),
    "blk.0.attn_k.weight": (_HIDDEN // 2, _HIDDEN),
    "blk.0.attn_v.weight": (_HIDDEN // 2, _HIDDEN),
    "blk.0.attn_output.weight": (_HIDDEN, _HIDDEN),
    "blk.0.ffn_gate.weight": (_INNER, _HIDDEN),
    "blk.0.ffn_up.weight": (_INNER, _HIDDEN),
    "blk.0.ffn_down.weight": (_HIDDEN, _INNER),
}


def seeds() -> Iterator[bytes]:
    """A llama of one layer for some types of blocks, each with the little metadata that a model needs."""
    numbers = {form.name: number for number, forms in TYPES.items() for form in forms}
    for name in ("Q4_0", "Q2_K", "Q6_K", "TQ1_0", "Q8_0"):
        yield _file(numbers[name])


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def _key(name: str, kind: int, value: bytes) -> bytes:
    return _text(name) + struct.pack("<I", kind) + value


def _file(number: int) -> bytes:
    tokens = b"".join(map(_text, "abcdefghijklmnop"))
    keys = [
        _key("general.architecture", _STRING, _text("llama")),
        *(_key(f"llama.{name}", _U32, struct.pack("<I", value)) for name, value in _KEYS.items()),
        _key("llama.attention.layer_norm_rms_epsilon", _F32, struct.pack("<f", 1e-5)),
        _key("llama.rope.freq_base", _F32, struct.pack("<f", 1e4)),
        _key("tokenizer.ggml.model", _STRING, _text("gpt2")),
        _key("tokenizer.ggml.tokens", _ARRAY, struct.pack("<IQ", _STRING, _WORDS) + tokens),
        _key("tokenizer.ggml.eos_token_id", _U32, struct.pack("<I", 1)),
    ]
    table, data = [], b""
    for name, shape in _SHAPES.items():
        kind = 0 if len(shape) == 1 else number
        form = TYPES[kind][0]
        size = int(np.prod(shape)) // form.weights * form.size
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        table.append(_text(name) + dimensions + struct.pack("<IQ", kind, len(data)))
        content = np.ones(size // 4, "<f4").tobytes() if kind == 0 else bytes(size)
        data += content.ljust(-(-size // 32) * 32, b"\0")
    front = b"GGUF" + struct.pack("<IQQ", 3, len(table), len(keys)) + b"".join(keys) + b"".join(table)
    return front.ljust(-(-len(front) // 32) * 32, b"\0") + data


def try_input(data: bytes) -> None:
    """Open the file, and read some of its weights."""
    with in_directory({"model.gguf": data}) as directory:
        try:
            model = open_model(directory / "model.gguf")
            for weight in list(model.weights.values())[:2]:
                weight.read()
            for tensor in list(model.tensors.values())[:2]:
                tensor.read()
        except InputError:
            pass
