"""Damaged models: Hugging Face directories, checkpoints, GGUF files, directories of other quantizers."""

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

from tools.damage import bases
from tools.damage.bases import changed_config, with_header, with_number
from tools.damage.case import Case

__all__ = ["cases"]

_WEIGHTS, _INDEX, _CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
_EXPORT = ("export", "{dir}", "{out}/model.onnx", "--quiet")
_INSPECT = ("inspect", "{dir}", "--densities")
_DEEP = b"[" * 100_000


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _directories()
    yield from _weights()
    yield from _checkpoints()
    yield from _ggufs()
    yield from _quantizers()


def _setting(files: bases.Files, key: str, value: Any) -> bases.Files:
    return changed_config(files, lambda config: config.update({key: value}))


def _directories() -> Iterator[Case]:
    llama = bases.llama()
    texts: dict[str, bytes] = {
        "config.json is empty": b"",
        "config.json is cut off": llama[_CONFIG][:40],
        "config.json is a list": b"[]",
        "config.json is a number": b"7",
        "config.json is not UTF-8": b'{"model_type": "\xff"}',
        "config.json is UTF-16": '{"model_type": "llama"}'.encode("utf-16"),
        "config.json holds a NUL byte": b'{"model_type": "llama"\0}',
        "config.json nests 100,000 deep": b'{"a": ' + _DEEP,
        "config.json nests 200 deep": b'{"model_type": "llama", "a": ' + b"[" * 200 + b"]" * 200 + b"}",
        "a number of config.json has 5,000 digits": b'{"model_type": "llama", "vocab_size": ' + b"9" * 5000 + b"}",
    }
    for damage, content in texts.items():
        yield Case("directory", damage, {**llama, _CONFIG: content}, _EXPORT)
    yield Case("directory", "config.json is a folder", {**llama, _CONFIG: None}, _EXPORT)
    yield Case("directory", "there is no config.json", {_WEIGHTS: llama[_WEIGHTS]}, _EXPORT)
    settings: tuple[tuple[str, Any], ...] = (
        ("model_type", None),
        ("model_type", 7),
        ("model_type", "lamma"),
        ("model_type", "\x1b[2J"),
        ("num_hidden_layers", -1),
        ("num_hidden_layers", 1 << 31),
        ("num_hidden_layers", 1 << 63),
        ("num_hidden_layers", "1"),
        ("num_hidden_layers", 1.5),
        ("max_position_embeddings", 1 << 31),
        ("max_position_embeddings", (1 << 63) - 1),
        ("num_attention_heads", 0),
        ("hidden_size", 12),
        ("intermediate_size", 1 << 40),
        ("vocab_size", 1 << 62),
        ("head_dim", 1 << 40),
        ("rms_norm_eps", float("nan")),
        ("rope_parameters", {"rope_type": "sideways", "rope_theta": 1e4}),
        ("hidden_act", "__import__('os')"),
        ("attn_implementation", "somebody/kernels"),
    )
    for key, value in settings:
        shown = json.dumps(value) if not isinstance(value, int) or abs(value) < 1 << 20 else _power(value)
        yield Case("directory", f"{key} is {shown}", _setting(llama, key, value), _EXPORT)
    yield Case(
        "directory", "the weights are a pickle alone", {_CONFIG: llama[_CONFIG], "pytorch_model.bin": b"x"}, _EXPORT
    )
    yield Case("directory", "there are no weights", {_CONFIG: llama[_CONFIG]}, _EXPORT)
    yield Case("directory", "the output lies in the model directory", llama, ("export", "{dir}", "{dir}/model.onnx"))
    yield Case("directory", "the output has another ending", llama, ("export", "{dir}", "{out}/model.bin"))


def _power(value: int) -> str:
    return f"2^{value.bit_length() - 1}" if value & (value - 1) == 0 else f"2^{value.bit_length()} - 1"


def _weights() -> Iterator[Case]:
    llama, norm = bases.llama(), "model.norm.weight"
    content = llama[_WEIGHTS]
    raw: dict[str, bytes] = {
        "is empty": b"",
        "is cut off by a byte": content[:-1],
        "is cut off in its header": content[:20],
        "says a header of 2^31 bytes": struct.pack("<Q", 1 << 31) + content[8:],
        "says a header of 2^63 bytes": struct.pack("<Q", 1 << 63) + content[8:],
        "says a header of 2^64 - 1 bytes": struct.pack("<Q", (1 << 64) - 1) + content[8:],
        "has bytes behind its tensors": content + b"\0",
        "has a header that is no JSON": struct.pack("<Q", 8) + b"{{{{{{{{",
        "is a web page": b"<!DOCTYPE html>",
    }
    for damage, changed in raw.items():
        yield Case("safetensors", f"the file {damage}", {**llama, _WEIGHTS: changed}, _EXPORT)
    headers: dict[str, Callable[[dict[str, Any]], object]] = {
        "a shape of 2^63 elements": lambda header: header[norm].update(shape=[1 << 63]),
        "a shape whose product passes 2^64": lambda header: header[norm].update(shape=[1 << 33, 1 << 33]),
        "a negative shape": lambda header: header[norm].update(shape=[-8]),
        "an offset beyond the file": lambda header: header[norm].update(data_offsets=[0, 1 << 40]),
        "offsets that run backwards": lambda header: header[norm].update(data_offsets=[16, 0]),
        "tensors that overlap": lambda header: header[norm].update(data_offsets=[0, 16]),
        "an unknown type": lambda header: header[norm].update(dtype="F17"),
        "a type that is no weight's": lambda header: header[norm].update(dtype="C64", shape=[2]),
        "a tensor less": lambda header: header.update(extra=header.pop(norm)),
    }
    for damage, change in headers.items():
        yield Case("safetensors", f"the header has {damage}", with_header(llama, change), _EXPORT)
    shards = bases.files_of_index()
    maps: dict[str, Any] = {
        "leads out of the directory": {norm: "../model.safetensors"},
        "names an absolute path": {norm: "/etc/model.safetensors"},
        "names a path of Windows": {norm: "C:\\model.safetensors"},
        "names a file in a folder": {norm: "a/model.safetensors"},
        "names a pickle": {norm: "pytorch_model.bin"},
        "names a file with a NUL byte": {norm: "a\0.safetensors"},
        "names a file with half a letter": {norm: "\ud800.safetensors"},
        "names a file of 5,000 letters": {norm: "a" * 5000 + ".safetensors"},
        "names a file that is not there": {norm: "b.safetensors"},
        "names a number": {norm: 7},
        "is a list": [norm],
        "is empty": {},
        "is null": None,
    }
    for damage, value in maps.items():
        files = {**shards, _INDEX: json.dumps({"weight_map": value}).encode()}
        yield Case("safetensors", f"weight_map {damage}", files, _EXPORT)
    yield Case("safetensors", "the index nests 100,000 deep", {**shards, _INDEX: _DEEP}, _EXPORT)


def _checkpoints() -> Iterator[Case]:
    files, module = bases.checkpoint(1), "a.q"

    def block(change: Callable[[dict[str, Any]], object]) -> bases.Files:
        return changed_config(files, lambda config: change(config["quantization_config"]))

    values: tuple[tuple[str, Any], ...] = (
        ("format_version", 5),
        ("format_version", 1 << 63),
        ("format_version", True),
        ("method", "magic"),
        ("planes", 0),
        ("planes", 9),
        ("planes", 1 << 31),
        ("planes", "2"),
        ("group_size", 33),
        ("group_size", -32),
        ("group_size", 1 << 31),
        ("group_size", 1 << 63),
        ("has_offset", "yes"),
        ("levels", "odd"),
        ("modules_to_not_convert", "a.q"),
        ("modules_to_not_convert", [1]),
        ("overrides", []),
        ("overrides", {module: {"planes": 99}}),
        ("overrides", {module: {"color": "red"}}),
        ("rotation", {"block_size": 3}),
        ("rotation", {"block_size": 1 << 40}),
        ("surprise", 1),
    )
    for key, value in values:
        shown = _power(value) if type(value) is int and abs(value) >= 1 << 20 else json.dumps(value)
        changed = block(lambda it, key=key, value=value: it.update({key: value}))
        yield Case("checkpoint", f"{key} is {shown}", changed, _INSPECT)
    yield Case("checkpoint", "there are no planes", block(lambda it: it.pop("planes")), _INSPECT)
    twice = files[_CONFIG].replace(b'"planes": 3', b'"planes": 3, "planes": 2')
    yield Case("checkpoint", "planes is given twice", {**files, _CONFIG: twice}, _INSPECT)
    yield Case("checkpoint", "the block is a list", _setting(files, "quantization_config", [1]), _INSPECT)
    yield Case(
        "checkpoint",
        "the block nests 300 deep",
        {**files, _CONFIG: files[_CONFIG][:-1] + b', "a": ' + b"[" * 300 + b"]" * 300 + b"}"},
        _INSPECT,
    )
    tensors: dict[str, Callable[[dict[str, Any]], object]] = {
        "planes of another type": lambda header: header[f"{module}.planes"].update(dtype="I8"),
        "planes of another shape": lambda header: header[f"{module}.planes"].update(shape=[3, 64]),
        "scales without planes": lambda header: header.update(other=header.pop(f"{module}.planes")),
        "planes without scales": lambda header: header.update(other=header.pop(f"{module}.scales")),
        "signs of no planes": lambda header: header.update(
            {"b.rotation_signs": header.pop(f"{module}.rotation_signs")}
        ),
    }
    for damage, change in tensors.items():
        yield Case("checkpoint", damage, with_header(files, change), _INSPECT)
    shards = bases.checkpoint(0)
    yield Case(
        "checkpoint", "a file of the index is missing", {n: c for n, c in shards.items() if n[0] != "b"}, _INSPECT
    )
    yield Case("checkpoint", "it is another quantizer's", block(lambda it: it.update(quant_method="awq2")), _INSPECT)


def _ggufs() -> Iterator[Case]:
    whole = bases.gguf()
    front = whole[:24]
    dimension = b"blk.0.attn_q.weight" + struct.pack("<I", 2)
    contents: dict[str, bytes] = {
        "is empty": b"",
        "is another kind of file": b"PK\3\4" + bytes(60),
        "ends after its magic": whole[:4],
        "ends in its header": whole[:20],
        "ends in its keys": whole[:200],
        "ends in its data": whole[:-64],
        "has bytes behind its data": whole + bytes(64),
        "is of version 1": with_number(whole, b"GGUF", 1),
        "is of version 2^31": with_number(whole, b"GGUF", 1 << 31),
        "is big-endian": with_number(whole, b"GGUF", 3 << 24),
        "has 2^31 tensors": with_number(whole, front[:8], 1 << 31, 8),
        "has 2^63 tensors": with_number(whole, front[:8], 1 << 63, 8),
        "has 2^64 - 1 keys": with_number(whole, front[:16], (1 << 64) - 1, 8),
        "has a key of 2^63 letters": with_number(whole, front, 1 << 63, 8),
        "has a value of an unknown type": with_number(whole, b"general.architecture", 99),
        "has a text of 2^40 letters": with_number(whole, b"general.architecture" + struct.pack("<I", 8), 1 << 40, 8),
        "has a list of 2^60 tokens": with_number(
            whole, b"tokenizer.ggml.tokens" + struct.pack("<II", 9, 8), 1 << 60, 8
        ),
        "has a tensor of 0 dimensions": with_number(whole, b"blk.0.attn_q.weight", 0),
        "has a tensor of 2^31 dimensions": with_number(whole, b"blk.0.attn_q.weight", 1 << 31),
        "has a dimension of 2^63": with_number(whole, dimension, 1 << 63, 8),
        "has dimensions whose product passes 2^64": with_number(
            with_number(whole, dimension, 1 << 40, 8), dimension, 1 << 40, 8, skip=8
        ),
        "has a dimension of 0": with_number(whole, dimension, 0, 8),
        "has a tensor of an unknown type": with_number(whole, dimension, 77, skip=16),
        "has a tensor at 2^63": with_number(whole, dimension, 1 << 63, 8, skip=20),
        "has a tensor at an odd place": with_number(whole, dimension, 7, 8, skip=20),
        "has a tensor twice": whole.replace(b"blk.0.attn_k.weight", b"blk.0.attn_q.weight"),
        "has a name that is not UTF-8": whole.replace(b"blk.0.attn_k.weight", b"blk.0.attn_\xff.weight"),
        "has a tensor of no model": whole.replace(b"blk.0.attn_k.weight", b"blk.0.attn_z.weight"),
        "says no architecture": whole.replace(b"general.architecture", b"general.architectura"),
        "says an unknown architecture": whole.replace(struct.pack("<Q", 5) + b"llama", struct.pack("<Q", 5) + b"lamma"),
        "says 0 layers": with_number(whole, b"llama.block_count" + struct.pack("<I", 4), 0),
        "says 2^32 - 1 layers": with_number(whole, b"llama.block_count" + struct.pack("<I", 4), (1 << 32) - 1),
        "says 3 heads": with_number(whole, b"llama.attention.head_count" + struct.pack("<I", 4), 3),
        "ends with token 2^31": with_number(whole, b"tokenizer.ggml.eos_token_id" + struct.pack("<I", 4), 1 << 31),
    }
    for damage, content in contents.items():
        yield Case("GGUF", f"the file {damage}", {"model.gguf": content}, ("inspect", "{dir}/model.gguf"))
    yield Case("GGUF", "the file is not there", {}, ("inspect", "{dir}/model.gguf"))
    yield Case("GGUF", "the file is a folder", {"model.gguf": None}, ("inspect", "{dir}/model.gguf"))


def _quantizers() -> Iterator[Case]:
    names = ("gptq", "awq", "auto-round", "mlx", "bitnet", "compressed-tensors", "bitsandbytes", "hqq")
    key = ["quantization_config"] * len(names)
    key[names.index("mlx")] = "quantization"
    changes: tuple[tuple[int, str, Callable[[dict[str, Any]], object]], ...] = (
        (0, "bits is 2^31", lambda block: block.update(bits=1 << 31)),
        (0, "bits is a text", lambda block: block.update(bits="4")),
        (0, "group_size is 0", lambda block: block.update(group_size=0)),
        (0, "group_size is 2^63", lambda block: block.update(group_size=1 << 63)),
        (0, "group_size is -2", lambda block: block.update(group_size=-2)),
        (0, "checkpoint_format is unknown", lambda block: block.update(checkpoint_format="marlin_9")),
        (0, "a pattern that searches for ever", lambda block: block.update(dynamic={"(m+)+x": {"bits": 4}})),
        (0, "a pattern of many repetitions", lambda block: block.update(dynamic={".*" * 9 + "x": {"bits": 4}})),
        (0, "a pattern that is none", lambda block: block.update(dynamic={"(": {"bits": 4}})),
        (1, "bits is 3", lambda block: block.update(bits=3)),
        (1, "version is unknown", lambda block: block.update(version="gemv")),
        (1, "group_size is null", lambda block: block.update(group_size=None)),
        (2, "packing_format is unknown", lambda block: block.update(packing_format="cube")),
        (3, "bits is -1", lambda block: block.update(bits=-1)),
        (3, "mode is unknown", lambda block: block.update(mode="mxfp9")),
        (5, "config_groups is a list", lambda block: block.update(config_groups=[])),
        (5, "format is unknown", lambda block: block.update(format="marlin-24")),
        (5, "num_bits is 2^40", lambda block: block["config_groups"]["group_0"]["weights"].update(num_bits=1 << 40)),
    )
    for number, damage, change in changes:
        name = key[number]
        files = changed_config(bases.quantizer(number), lambda config, n=name, c=change: c(config[n]))
        yield Case("other quantizers", f"{names[number]}: {damage}", files, ("inspect", "{dir}"))
    module = "model.layers.0.mlp.up_proj"
    tensors: tuple[tuple[int, str, Callable[[dict[str, Any]], object]], ...] = (
        (0, "qweight is missing", lambda header: header.update(x=header.pop(f"{module}.qweight"))),
        (0, "scales of another type", lambda header: header[f"{module}.scales"].update(dtype="I16")),
        (1, "qzeros of another shape", lambda header: header[f"{module}.qzeros"].update(shape=[4, 2])),
        (
            4,
            "a scale for each of two weights",
            lambda header: header[f"{module}.weight_scale"].update(dtype="U8", shape=[2]),
        ),
        (6, "SCB of another shape", lambda header: header[f"{module}.SCB"].update(shape=[16, 2])),
        (7, "axis of another type", lambda header: header[f"{module}.axis"].update(dtype="F64")),
    )
    for number, damage, change in tensors:
        files = with_header(bases.quantizer(number), change)
        yield Case("other quantizers", f"{names[number]}: {damage}", files, ("inspect", "{dir}"))
    gptq = bases.quantizer(0)
    twice = gptq["config.json"].replace(b'"bits": 4', b'"bits": 4, "bits": 2')
    yield Case("other quantizers", "gptq: bits is given twice", {**gptq, "config.json": twice}, ("inspect", "{dir}"))
