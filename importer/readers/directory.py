"""A Hugging Face directory that another tool quantized: its headers, single tensors, and what every reader must refuse.

A reader takes the tensors of its weights by name. What is left over must be plain, or the directory is refused: packed
bytes are never read as weights.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from dualbinary import InputError
from dualbinary.checkpoint import StoredTensor, is_computed, stored_tensors
from dualbinary.checkpoint.text_part import has_text_part, text_config, text_name, text_names, text_notes
from dualbinary.files.model_files import (
    CHAT_TEMPLATES,
    CONFIG_FILE,
    GENERATION_CONFIG,
    TOKENIZER_CONFIG,
    TOKENIZER_FILES,
)
from importer.model import LowBitModel, PackedWeight, PlainTensor

__all__ = [
    "FLOATS",
    "Directory",
    "bits_of",
    "by_groups",
    "group_size_of",
    "integer",
    "is_group_size",
    "signed",
    "step_of",
]

FLOATS = {
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
}
"""Types that a plain tensor may have, by safetensors' names."""

_PACKED = re.compile(
    r"\.(qweight|qzeros|qbiases|scales|biases|g_idx|weight_(packed|scale\w*|global_scale|zero_point|shape|g_idx|format)"
    r"|SCB|absmax|quant_map|nested_\w+|quant_state\.\w+|W_q|codebooks?|centroids|trellis|suh|svh"
    r"|embedding_(quantized|scale)|(input|output)_(activation_)?(scale|zero_point)|[kv]_(cache_)?scale"
    r"|rotation\w*|hadamard\w*|lora_[AB](\.weight)?)$|\.weight\._(data|scale|shift)$"
)
"""Names of tensors that belong to a quantized weight in some format, and never to a plain one."""

_MAX_NAME = 256  # letters of a tensor; patterns of config.json are searched in them

_BLOCKS = ("quantization_config", "quantization", "compression_config")
_ROTATIONS = re.compile(r"hadamard|quarot|spinquant|rotation|^transform_config$", re.IGNORECASE)

_TEMPLATES = (f"{CHAT_TEMPLATES}/", "*.jinja")


@dataclass(frozen=True)
class Directory:
    """A directory and its headers.

    Attributes:
        path: the directory.
        config: its config.json.
        stored: all tensors by name.
        used: names of tensors that weights are made of, or that a note explains; a reader adds to it.
        opened: files that are open.
    """

    path: Path
    config: dict[str, Any]
    stored: dict[str, StoredTensor]
    used: set[str] = field(default_factory=set[str])
    opened: dict[Path, Any] = field(default_factory=dict[Path, Any])

    @classmethod
    def open(cls, path: Path, config: dict[str, Any]) -> "Directory":
        """Read the headers.

        Raises InputError for files that are damaged, for a key that config.json has twice, and for a rotation in it.
        """
        _refuse_key_twice(path / CONFIG_FILE)
        _refuse_rotations(config)
        stored = stored_tensors(path)
        if longest := next((name for name in stored if len(name) > _MAX_NAME), None):
            raise InputError(f"{path}: {longest[:40]!a}...: expected names of at most {_MAX_NAME} letters")
        return cls(path, config, stored)

    def modules(self, suffix: str) -> list[str]:
        """The modules with a tensor of this last name, in the order of their names."""
        end = f".{suffix}"
        return sorted(name.removesuffix(end) for name in self.stored if name.endswith(end))

    def take(self, name: str, types: Iterable[str], shape: tuple[int | None, ...], why: str = "") -> tuple[int, ...]:
        """The shape of a tensor that a weight needs; None in `shape` is any length but 0.

        Raises InputError where it is missing, or has another type or shape; `why` says where these come from.
        """
        types = tuple(types)
        lengths = ", ".join("any" if length is None else str(length) for length in shape)
        wanted = f"expected {' or '.join(types)} [{lengths}]{f' ({why})' if why else ''}"
        tensor = self.stored.get(name)
        if tensor is None:
            raise InputError(f"{name}: missing; {wanted}; fetch the directory again")
        fits = len(tensor.shape) == len(shape) and all(
            length > 0 and length == (length if expected is None else expected)
            for length, expected in zip(tensor.shape, shape, strict=True)
        )
        if tensor.dtype not in types or not fits:
            raise InputError(f"{name}: {wanted}, got {tensor.dtype} {list(tensor.shape)}")
        self.used.add(name)
        return tensor.shape

    def drop(self, pattern: str) -> list[str]:
        """Set the tensors apart whose whole name matches; returns their names. A note must say why."""
        names = [name for name in self.stored if name not in self.used and re.fullmatch(pattern, name)]
        self.used.update(names)
        return names

    def array(self, name: str) -> np.ndarray:
        """A tensor; bfloat16 comes as the type of ml_dtypes."""
        return self._reader(name).get_tensor(name)

    def columns(self, name: str, count: int) -> np.ndarray:
        """The first columns of a matrix, `count` at most."""
        count = min(count, self.stored[name].shape[1])
        return self._reader(name).get_slice(name)[:, :count]

    def bits_per_weight(self, names: Iterable[str], weights: int) -> float:
        """What these tensors take for each of so many weights."""
        size = {"I8": 8, "U8": 8, "I16": 16, "F16": 16, "BF16": 16, "I64": 64}
        total = sum(size.get(self.stored[name].dtype, 32) * prod(self.stored[name].shape) for name in names)
        return total / weights

    @property
    def own_config(self) -> dict[str, Any]:
        """config.json of the full-precision model; of one that takes pictures or sound, of the language model in it."""
        plain = {key: value for key, value in self.config.items() if key not in _BLOCKS}
        return text_config(plain, self.stored) if has_text_part(plain) else plain

    def own_name(self, name: str) -> str | None:
        """The name of a tensor in the class of that model; None where it is of another part."""
        return text_name(name) if has_text_part(self.config) else name

    def model(self, form: str, weights: Mapping[str, PackedWeight], notes: Iterable[str] = ()) -> LowBitModel:
        """The model of these weights, without the buffers that it computes anyway.

        Of a model that takes pictures or sound too, it is the language model inside, by the names of its class.
        Raises InputError where a tensor that is left over is not a plain one.
        """
        if not weights:
            raise InputError(
                f"{self.path}: config.json says {form}, but no tensor holds a packed weight; if the weights are plain, "
                "remove the block from config.json"
            )
        if has_text_part(self.config):
            text_names(self.stored)  # no two of them are one
        left = [name for name, it in self.stored.items() if name not in self.used and not is_computed(name, it.shape)]
        tensors = {own: self._plain(name, form, weights) for name in left if (own := self.own_name(name)) is not None}
        named = ((self.own_name(f"{module}.weight"), weight) for module, weight in weights.items())
        own_weights = {name.removesuffix(".weight"): weight for name, weight in named if name is not None}
        notes = (*notes, *text_notes(self.config))
        return LowBitModel(form, self.own_config, own_weights, tensors, lambda: _small_files(self.path), notes)

    def _reader(self, name: str) -> Any:
        file = self.stored[name].file
        if file not in self.opened:
            self.opened[file] = safe_open(file, framework="numpy")
        return self.opened[file]

    def _plain(self, name: str, form: str, weights: Mapping[str, PackedWeight]) -> PlainTensor:
        tensor = self.stored[name]
        module = name.rpartition(".")[0]
        if name.removesuffix(".weight") in weights:
            raise InputError(f"{name}: not expected beside the packed weight of {module}; keep one of them")
        if packed_tensor({name: tensor}) is not None:
            raise InputError(
                f"{name}: {tensor.dtype} {list(tensor.shape)} belongs to no weight of {form} that this release reads; "
                "give the full-precision model"
            )
        return PlainTensor(tensor.shape, FLOATS[tensor.dtype], lambda: self.array(name))


def packed_tensor(stored: Mapping[str, StoredTensor]) -> str | None:
    """The first tensor that is no plain one: integers, or a part of a quantized weight by its name."""
    parts = {name: it for name, it in stored.items() if not is_computed(name, it.shape)}
    return next((name for name, it in parts.items() if it.dtype not in FLOATS or _PACKED.search(name)), None)


def integer(block: Mapping[str, Any], key: str, where: str, default: int | None = None) -> int:
    """The whole number at `key`. Raises InputError, naming it, where there is none."""
    value = block.get(key, default)
    if type(value) is not int:
        raise InputError(f"{where}.{key}: expected a whole number, got {json.dumps(value, default=repr)}")
    return value


def is_group_size(size: int) -> bool:
    """Whether groups of so many inputs can be stored: 16, or a multiple of 32."""
    return size == 16 or (size > 0 and size % 32 == 0)


def group_size_of(module: str, declared: Iterable[int], K: int, groups: int) -> int:
    """G, of the sizes that config.json declares, of a weight with so many groups in a row; -1 for one group.

    Raises InputError where none of them gives `groups`, or the size cannot be stored.
    """
    declared = list(dict.fromkeys(declared))
    for size in declared:
        if size == 0 or size < -1:
            raise InputError(f"{module}: expected a group_size of 16, a multiple of 32, or -1 for all, got {size}")
        if -(-K // (K if size == -1 else size)) != groups:
            continue
        if size == -1 or size >= K:
            return -1
        if not is_group_size(size):
            raise InputError(
                f"{module}: groups of {size}; expected 16 or a multiple of 32; quantize again with such groups"
            )
        return size
    raise InputError(
        f"{module}: has {groups} groups of scales for {K} inputs, which no group_size of config.json gives "
        f"({', '.join(map(str, declared))})"
    )


def bits_of(module: str, declared: Iterable[int], fits: Mapping[int, bool]) -> int:
    """The declared width that the shapes of a weight fit; `fits` says it of every width.

    Raises InputError where the shapes say another width.
    """
    declared = list(dict.fromkeys(declared))
    for bits in declared:
        if fits.get(bits, False):
            return bits
    others = [str(bits) for bits, fit in fits.items() if fit]
    shapes = f"shapes say {' or '.join(others)}" if others else "no width fits its shapes"
    raise InputError(f"{module}: config.json says {' or '.join(map(str, declared))} bits, but {shapes}")


def by_groups(name: str, g_idx: np.ndarray, G: int, groups: int) -> npt.NDArray[np.int32] | None:
    """The order, int32 [K], in which inputs with these groups are consecutive; None where they are already.

    `name` is that of the tensor g_idx [K].

    Raises InputError where an index is no group, or a group has another size than G.
    """
    K = len(g_idx)
    size = K if G == -1 else G
    if g_idx.min() < 0 or g_idx.max() >= groups:
        raise InputError(f"{name}: expected groups 0 to {groups - 1}, got {g_idx.min()} to {g_idx.max()}")
    expected = np.minimum(size, K - size * np.arange(groups))
    counts = np.bincount(g_idx, minlength=groups)
    if not np.array_equal(counts, expected):
        first = int(np.argmax(counts != expected))
        raise InputError(f"{name}: group {first} has {counts[first]} inputs, expected {expected[first]}")
    order = np.argsort(g_idx, kind="stable").astype(np.int32)
    return None if np.array_equal(order, np.arange(K)) else order


def step_of(scales: np.ndarray) -> npt.NDArray[np.floating]:
    """Steps as a reader gives them: float16 and float32 as they are, bfloat16 as the float32 of its value."""
    return scales if scales.dtype == np.float16 else scales.astype(np.float32)


def signed(module: str, q: npt.NDArray[np.int8], bits: int) -> npt.NDArray[np.uint8]:
    """Codes from 0 for signed integers of so many bits. Raises InputError where one needs more bits."""
    half = 1 << (bits - 1)
    if q.min() < -half or q.max() >= half:
        raise InputError(f"{module}: expected integers of {bits} bits, got {q.min()} to {q.max()}")
    return (q.view(np.uint8) + np.uint8(half)) & np.uint8(2 * half - 1)


def _small_files(path: Path) -> dict[str, str | Path]:
    """Tokenizer, templates and generation settings, by their names below the directory."""
    names = [*TOKENIZER_FILES, TOKENIZER_CONFIG, GENERATION_CONFIG]
    files: dict[str, str | Path] = {name: path / name for name in names if (path / name).is_file()}
    for template in sorted((path / _TEMPLATES[0]).glob(_TEMPLATES[1])):
        files[_TEMPLATES[0] + template.name] = template
    return files


def _refuse_rotations(config: dict[str, Any]) -> None:
    """Refuse whatever says that weights multiply something else than the inputs, and that no reader has asked for."""
    blocks = {"": config} | {f"{name}.": config[name] for name in _BLOCKS if isinstance(config.get(name), dict)}
    for where, block in blocks.items():
        for key, value in block.items():
            if value and _ROTATIONS.search(key):
                raise InputError(
                    f"config.json: {where}{key}: the model computes more than its weights say, and this release does "
                    "not know what; give the full-precision model"
                )


def _refuse_key_twice(path: Path) -> None:
    """Refuse a config.json in which an object has a key twice: readers take the last of them and say nothing."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise InputError(f"{path}: {json.dumps(twice)[:80]} is given twice; expected one value")
        return result

    json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
