"""Damaged exports: the ONNX file, what lies beside it, prompts, variables of the environment, command lines."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import onnx

from tools.damage import bases
from tools.damage.bases import changed_config, with_model
from tools.damage.case import Case

__all__ = ["cases"]

_INFO = ("info", "{dir}/model.onnx", "--no-library")
_CHAT = ("generate", "{dir}/model.onnx", "--prompt", "Hi", "--chat", "--max-new-tokens", "1", "--no-library")
_RELAYOUT = ("relayout", "{dir}/model.onnx", "{out}/model.onnx", "--layout", "avx2", "--quiet")
_INSPECT = ("inspect", "{dir}/model.onnx")


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _models()
    yield from _locations()
    yield from _products()
    yield from _beside()
    yield from _templates()
    yield from _prompts()
    yield from _variables()
    yield from _command_lines()


def _models() -> Iterator[Case]:
    files = bases.decoder()
    whole = files["model.onnx"]
    contents: dict[str, bytes | None] = {
        "is empty": b"",
        "is cut off": whole[:-40],
        "ends in the middle of a length": b"\x3a\xff\xff",
        "says a graph of 2^63 bytes": b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        "says a number of eleven bytes": b"\x08" + b"\xff" * 11,
        "has a group, which protobuf gave up": b"\x3b\x3c" + whole,
        "is a web page": b"<!DOCTYPE html>",
        "is a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\n",
        "is a GGUF file": b"GGUF" + bytes(64),
        "is an archive": b"PK\3\4" + bytes(64),
        "is a folder": None,
    }
    for damage, content in contents.items():
        yield Case("ONNX file", f"the file {damage}", {**files, "model.onnx": content}, _INFO)
    yield Case("ONNX file", "the file is not there", {}, _INFO)

    def rename(model: onnx.ModelProto, place: Any, name: str) -> None:
        for node in model.graph.node:
            for values in (node.input, node.output):
                for index, value in enumerate(values):
                    values[index] = name if value == place.name else value
        place.name = name

    changes: dict[str, Callable[[onnx.ModelProto], object]] = {
        "has no input input_ids": lambda model: rename(model, model.graph.input[0], "ids"),
        "has no output logits": lambda model: rename(model, model.graph.output[0], "scores"),
        "asks for another input": lambda model: model.graph.input.append(
            onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, [1])
        ),
        "has a cache without its output": lambda model: model.graph.input.append(
            onnx.helper.make_tensor_value_info("past_key_values.0.key", onnx.TensorProto.FLOAT, [1, 2, "t", 4])
        ),
        "says a number of tokens that is none": lambda model: onnx.helper.set_model_props(
            model, {"dualbinary.long_rope_after": "many"}
        ),
    }
    for damage, change in changes.items():
        yield Case("ONNX file", damage, with_model(files, change), _INFO)


def _outside(entries: dict[str, str]) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in entries.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value

    return change


def _locations() -> Iterator[Case]:
    locations = {
        "in the folder above": "../secret",
        "in a folder above a folder": "a/../../secret",
        "an absolute path": "/etc/hostname",
        "a path of Windows": "C:\\secret",
        "with backslashes": "..\\secret",
        "the folder itself": ".",
        "no name": "",
        "a name with a NUL byte": "a\0b",
        "a name with an asterisk": "*/memory/*",
        "a name with a line": "a\nb",
    }
    for damage, location in locations.items():
        for name, files, command in (("info", bases.decoder(), _INFO), ("relayout", bases.product(), _RELAYOUT)):
            changed = with_model(files, _outside({"location": location, "length": "8"}))
            yield Case("data of an ONNX file", f"the data are said to be {damage} ({name})", changed, command)
    numbers = {"offset": "-1", "length": "9223372036854775808"}
    numbers_of = {**{f"{key} is {value}": {key: value} for key, value in numbers.items()}}
    numbers_of |= {
        "offset is no number": {"offset": "0x10"},
        "offset and length pass 2^63": {"offset": str((1 << 63) - 1), "length": "8"},
    }
    numbers_of |= {"length is more than the file has": {"length": "1000000"}}
    for damage, entries in numbers_of.items():
        files = {**bases.decoder(), "model.onnx.data": bytes(64)}
        changed = with_model(files, _outside({"location": "model.onnx.data", **entries}))
        yield Case("data of an ONNX file", damage, changed, _INFO)
    changed = with_model(bases.product(), _outside({"location": "link", "length": "8"}))
    yield Case(
        "data of an ONNX file",
        "the data are behind a link to elsewhere",
        changed,
        _RELAYOUT,
        links={"link": "/etc/hostname"},
    )
    missing = {name: content for name, content in bases.product().items() if name != "model.onnx.data"}
    yield Case("data of an ONNX file", "the data are missing", missing, _RELAYOUT)


def _products() -> Iterator[Case]:
    files = bases.product()

    def attribute(name: str, value: int) -> Callable[[onnx.ModelProto], object]:
        def change(model: onnx.ModelProto) -> None:
            next(each for each in model.graph.node[0].attribute if each.name == name).i = value

        return change

    for name, value, shown in (
        ("K", 0, "0"),
        ("K", 1 << 31, "2^31"),
        ("K", (1 << 63) - 1, "2^63 - 1"),
        ("N", -1, "-1"),
        ("N", 1 << 40, "2^40"),
        ("group_size", 0, "0"),
        ("group_size", 33, "33"),
        ("group_size", 1 << 62, "2^62"),
        ("layout", 99, "99"),
    ):
        yield Case(
            "operator of an ONNX file", f"{name} is {shown}", with_model(files, attribute(name, value)), _RELAYOUT
        )
    changes: dict[str, Callable[[onnx.ModelProto], object]] = {
        "planes have another shape": lambda model: model.graph.initializer[0].dims.__setitem__(0, 7),
        "planes have a dimension of 2^62": lambda model: model.graph.initializer[0].dims.__setitem__(0, 1 << 62),
        "planes have a negative dimension": lambda model: model.graph.initializer[0].dims.__setitem__(0, -2),
        "planes have another type": lambda model: setattr(model.graph.initializer[0], "data_type", 7),
        "planes have an unknown type": lambda model: setattr(model.graph.initializer[0], "data_type", 999),
        "there are no planes": lambda model: model.graph.initializer.pop(0),
        "a node has no inputs": lambda model: model.graph.node[0].ClearField("input"),
        "there is no node": lambda model: model.graph.ClearField("node"),
    }
    for damage, change in changes.items():
        yield Case("operator of an ONNX file", damage, with_model(files, change), _RELAYOUT)
    yield Case("operator of an ONNX file", "the file is no ONNX file (inspect)", {"model.onnx": b"\xff" * 50}, _INSPECT)


def _beside() -> Iterator[Case]:
    files = bases.decoder()
    genai: tuple[tuple[str, Any], ...] = (
        ("context_length", 0),
        ("context_length", -5),
        ("context_length", 1 << 31),
        ("context_length", 1 << 63),
        ("context_length", "long"),
        ("context_length", float("inf")),
        ("context_length", [64]),
        ("eos_token_id", "end"),
        ("eos_token_id", [[1]]),
        ("eos_token_id", float("nan")),
    )
    for key, value in genai:
        changed = changed_config(files, lambda it, k=key, v=value: it["model"].update({k: v}), "genai_config.json")
        yield Case("genai_config.json", f"{key} is {json.dumps(value)}", changed, _INFO)
    texts = {
        "is cut off": b'{"model": ',
        "is a list": b"[]",
        "has a list for model": b'{"model": []}',
        "is not UTF-8": b"\xff",
    }
    for damage, content in texts.items():
        yield Case("genai_config.json", f"it {damage}", {**files, "genai_config.json": content}, _INFO)
    tokenizer: tuple[tuple[str, str, bytes | None], ...] = (
        ("tokenizer.json", "is not there", None),
        ("tokenizer.json", "is empty", b""),
        ("tokenizer.json", "is a list", b"[]"),
        ("tokenizer.json", "has no model", b'{"version": "1.0"}'),
        ("tokenizer.json", "is not UTF-8", b"\xff\xfe"),
        ("tokenizer_config.json", "is a list", b"[]"),
        ("tokenizer_config.json", "is cut off", b'{"eos_token": '),
        ("tokenizer_config.json", "has a token that is a list", b'{"additional_special_tokens": [[]]}'),
        ("tokenizer_config.json", "has an id that is no number", b'{"added_tokens_decoder": {"x": "<x>"}}'),
        ("tokenizer_config.json", "has half a letter as a token", b'{"added_tokens_decoder": {"300": "\\ud800"}}'),
        ("tokenizer_config.json", "nests 100,000 deep", b'{"a": ' + b"[" * 100_000),
        ("added_tokens.json", "has an id that is infinite", b'{"<x>": Infinity}'),
        ("added_tokens.json", "is a number", b"7"),
        ("special_tokens_map.json", "is a text", b'"x"'),
    )
    for name, damage, content in tokenizer:
        changed = {key: value for key, value in files.items() if key != name} | (
            {name: content} if content is not None else {}
        )
        yield Case("tokenizer", f"{name} {damage}", changed, _CHAT)


def _templates() -> Iterator[Case]:
    templates = {
        "goes through 160,000 rounds": "{% for a in range(400) %}{% for b in range(400) %}{% endfor %}{% endfor %}",
        "calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "makes a text of 2,000,000 letters by a product": "{{ 'x' * 2000000 }}",
        "makes a text of 2,000,000 letters by a width": "{{ '%2000000d' % 1 }}",
        "makes a text of 4,000,000 letters by replace": "{% set s = 'x' * 2000 %}{{ s.replace('x', s) }}",
        "makes a number of 2,000,001 bits": "{{ 2 ** 2000000 }}",
        "makes lists that double": "{% set n = namespace(l=[1]) %}{% for a in range(22) %}"
        "{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}",
        "asks for Python's objects": "{{ ''.__class__.__mro__ }}",
        "asks for a file": "{% include '/etc/hostname' %}",
        "changes the messages": "{{ messages.append(1) }}",
        "is no template": "{% for m in",
        "has an unknown filter": "{{ 1 | launch }}",
        "refuses the message": "{{ raise_exception('no') }}",
        "is longer than 256 KiB": "{# " + "x" * (1 << 18) + " #}",
        "nests 5,000 brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    }
    for damage, template in templates.items():
        files = {**bases.decoder(), "chat_template.jinja": template.encode()}
        yield Case("chat template", f"it {damage}", files, _CHAT)
    yield Case("chat template", "it is not UTF-8", {**bases.decoder(), "chat_template.jinja": b"\xff"}, _CHAT)
    none = {**bases.decoder(), "tokenizer_config.json": b"{}"}
    yield Case("chat template", "there is none", none, _CHAT)


def _prompts() -> Iterator[Case]:
    command = ("generate", "{dir}/model.onnx", "--prompts", "{dir}/prompts", "--no-library")
    contents = {
        "is not UTF-8": b"\xff\n",
        "holds no prompt": b"\n\n",
        "holds half a string": b'"x\n',
        "holds half a letter": b'"\\ud800"\n',
    }
    for damage, content in contents.items():
        yield Case("file of prompts", f"it {damage}", {**bases.decoder(), "prompts": content}, command)
    yield Case("file of prompts", "it is not there", bases.decoder(), command)
    long = {**bases.decoder(), "prompts": b"x" * 100}
    yield Case("file of prompts", "a prompt is longer than the context", long, command)


def _variables() -> Iterator[Case]:
    files = {**bases.decoder(), "library": b"hello", "empty": b""}
    load = ("info", "{dir}/model.onnx")
    variables = {
        "DUALBINARY_LIBRARY leads nowhere": ("DUALBINARY_LIBRARY", "/nowhere/libdualbinary.so"),
        "DUALBINARY_LIBRARY names a folder": ("DUALBINARY_LIBRARY", "/"),
        "DUALBINARY_LIBRARY names a text": ("DUALBINARY_LIBRARY", "/etc/hostname"),
        "DUALBINARY_ISA is no instruction set": ("DUALBINARY_ISA", "mmx"),
        "DUALBINARY_ISA is 5,000 letters": ("DUALBINARY_ISA", "x" * 5000),
        "DUALBINARY_ISA obeys a terminal": ("DUALBINARY_ISA", "\x1b[2J"),
    }
    for damage, (name, value) in variables.items():
        yield Case("environment", damage, files, load, {name: value})
    serve = ("serve", "{dir}/model.onnx", "--no-library", "--port", "0")
    yield Case("environment", "DUALBINARY_API_KEY has a line in it", files, serve, {"DUALBINARY_API_KEY": "a\nb"})


def _command_lines() -> Iterator[Case]:
    files, model = bases.decoder(), "{dir}/model.onnx"
    lines: dict[str, tuple[str, ...]] = {
        "a verb that is none": ("fly",),
        "an option that is none": ("info", model, "--fly"),
        "no prompt": ("generate", model, "--no-library"),
        "an empty prompt": ("generate", model, "--prompt", "", "--no-library"),
        "a prompt that is not UTF-8": ("generate", model, "--prompt", "\udcff", "--no-library"),
        "-1 new tokens": ("generate", model, "--prompt", "x", "--max-new-tokens", "-1"),
        "10^30 threads": ("info", model, "--threads", "1" + "0" * 30),
        "a temperature that is no number": ("generate", model, "--prompt", "x", "--temperature", "nan"),
        "a temperature of infinity": ("generate", model, "--prompt", "x", "--temperature", "inf"),
        "top_p of 2": ("generate", model, "--prompt", "x", "--temperature", "1", "--top-p", "2"),
        "port 70000": ("serve", model, "--port", "70000"),
        "an address of nobody": ("serve", model, "--no-library", "--host", "256.1.1.1"),
        "0 slots": ("serve", model, "--slots", "0"),
        "0 connections": ("serve", model, "--connections", "0"),
        "a system that is none (bundle)": ("bundle", "{dir}", "--systems", "amiga"),
        "a folder without a model (bundle)": ("bundle", "{out}", "--systems", "linux-x64"),
        "a layout that is none (relayout)": ("relayout", model, "{out}/m.onnx", "--layout", "round"),
        "the input as output (relayout)": ("relayout", model, model, "--layout", "avx2"),
        "9 planes (export)": ("export", "{dir}", "{out}/m.onnx", "--planes", "9"),
        "groups of 33 (export)": ("export", "{dir}", "{out}/m.onnx", "--group-size", "33"),
        "a shell that is none (completion)": ("completion", "dos"),
    }
    for damage, line in lines.items():
        yield Case("command line", damage, files, line)
