"""Mutations of valid inputs: of their bytes, of their whole numbers, and of the JSON that is in them."""

import json
import random
import re
import struct
from collections.abc import Callable
from typing import Any

__all__ = ["mutated"]

_NUMBERS = (0, 1, 2, 7, 8, 31, 32, 127, 255, 256, 1 << 15, (1 << 16) - 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
_NUMBERS += (1 << 32, 1 << 40, (1 << 53) + 1, (1 << 60) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_VALUES: tuple[str, ...] = (
    *("null", "true", "false", "0", "-1", "1", "0.5", "1e308", "1e999", "NaN", "-Infinity", "[]", "{}", '""', '"x"'),
    *('"../x"', '"/x"', r'"\ud800"', r'"a\u0000b"', r'"\u001b[2J"', '["x"]', '{"": null}', "[[]]", "1" * 5000),
    *("[" * 50 + "]" * 50, "[" * 900 + "]" * 900, "[" * 100_000, '"' + "x" * 5000 + '"'),
    *map(str, _NUMBERS),
)
_JSON = re.compile(rb"[\[{].*[\]}]", re.DOTALL)
_MOST = 1 << 20  # bytes of an input


def mutated(data: bytes, choose: random.Random) -> bytes:
    """`data` with one to eight changes."""
    for _ in range(choose.choice((1, 1, 1, 2, 3, 8))):
        data = choose.choice(_CHANGES)(data, choose)[:_MOST]
    return data


def _flip(data: bytes, choose: random.Random) -> bytes:
    return _put(data, choose, lambda old: bytes([old[0] ^ (1 << choose.randrange(8))]), 1)


def _byte(data: bytes, choose: random.Random) -> bytes:
    return _put(data, choose, lambda _: bytes([choose.choice((0, 1, 0x7F, 0x80, 0xFF, choose.randrange(256)))]), 1)


def _number(data: bytes, choose: random.Random) -> bytes:
    """A whole number of 4 or 8 bytes, at a place where files have them more often than not."""
    size = choose.choice((4, 8))
    value = (choose.choice(_NUMBERS) + choose.choice((-1, 0, 0, 1))) % (1 << 8 * size)
    return _put(data, choose, lambda _: struct.pack("<I" if size == 4 else "<Q", value), size)


def _put(data: bytes, choose: random.Random, made: Callable[[bytes], bytes], size: int) -> bytes:
    if len(data) < size:
        return data
    at = choose.randrange(len(data) - size + 1)
    return data[:at] + made(data[at : at + size]) + data[at + size :]


def _cut(data: bytes, choose: random.Random) -> bytes:
    return data[: choose.randrange(len(data) + 1)]


def _remove(data: bytes, choose: random.Random) -> bytes:
    begin = choose.randrange(len(data) + 1)
    return data[:begin] + data[begin + choose.randrange(1, 64) :]


def _repeat(data: bytes, choose: random.Random) -> bytes:
    begin = choose.randrange(len(data) + 1)
    end = begin + choose.randrange(1, 64)
    return data[:end] + data[begin:end] * choose.choice((1, 2, 100)) + data[end:]


def _digits(data: bytes, choose: random.Random) -> bytes:
    """Another number in place of one that is written out."""
    found = list(re.finditer(rb"-?\d+", data))
    if not found:
        return data
    place = choose.choice(found)
    return data[: place.start()] + str(choose.choice((-1, 1)) * choose.choice(_NUMBERS)).encode() + data[place.end() :]


def _value(data: bytes, choose: random.Random) -> bytes:
    """Another value somewhere in the JSON of the input, or a key that is there twice, or one less."""
    for piece in (
        choose.sample(parts, len(parts)) if (parts := re.split(rb"(\n--- [\w.]+\n|\A--- [\w.]+\n)", data)) else []
    ):
        found = _JSON.search(piece)
        try:
            value = json.loads(found[0]) if found else None
        except (ValueError, RecursionError):
            continue
        if not isinstance(value, dict | list) or not value:
            continue
        try:
            text = _changed(value, choose)
        except RecursionError:
            continue
        new = piece[: found.start()] + text + piece[found.end() :] if found else piece
        if found and found.start() == 8:  # a safetensors header, whose length is before it
            new = struct.pack("<Q", len(text)) + new[8:]
        return b"".join(new if part is piece else part for part in parts)
    return data


_HOLE = "\ue000hole"


def _changed(value: Any, choose: random.Random) -> bytes:
    places = list(_places(value))
    container, key = choose.choice(places)
    kind = choose.random()
    if kind < 0.1:
        del container[key]
        return json.dumps(value).encode()
    if kind < 0.2 and isinstance(container, dict):
        text = json.dumps(value)
        name = json.dumps(key)
        return text.replace(f"{name}:", f"{name}: {choose.choice(_VALUES)}, {name}:", 1).encode()
    if kind < 0.3:
        other, there = choose.choice(places)
        container[key] = json.loads(json.dumps(other[there]))
        return json.dumps(value).encode()
    container[key] = _HOLE
    return json.dumps(value).replace(json.dumps(_HOLE), choose.choice(_VALUES), 1).encode()


def _places(value: Any) -> Any:
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


_CHANGES = (_flip, _byte, _number, _number, _cut, _remove, _repeat, _digits, _value, _value, _value)
