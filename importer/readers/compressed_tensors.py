"""compressed-tensors, pack-quantized and int-quantized: signed integers, packed along the inputs or as they are.

    weight_packed      int32 [N, words]    q + 2^(b-1), along K; with weight_shape int64 [2], which is N, K
    weight             int8 [N, K]         q, where it is not packed
    weight_scale       float [N, K/G], [N, 1] a channel, or [1] for all
    weight_zero_point  packed int32 [words, K/G] along N, or int8 [N, K/G]; absent from a symmetric weight
    weight_g_idx       int32 [K]           the group of each input, of older versions; -1 means none

w[n,k] = scale[n,g] · (q[n,k] - zero[n,g]). From version 0.18 words hold the bits of all values without a gap; before it
each word holds whole values, which is another thing at 3, 5, 6 and 7 bits, and which no field of config.json but
`version` says. The number of words says it too, unless rows are short.

Source: compressed-tensors 0.20.0 and 0.17.1, compressors/pack_quantized/, compressors/naive_quantized/.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualbinary import InputError
from importer.model import LowBitModel, Numbers, PackedWeight
from importer.readers.directory import FLOATS, Directory, by_groups, group_size_of, integer, signed, step_of
from importer.readers.gptq import pattern
from importer.readers.words import dense, dense_words, padded, padded_words

__all__ = ["open_compressed_tensors", "recognises"]

_WHERE = "quantization_config"
_FORMATS = ("pack-quantized", "int-quantized", "naive-quantized", "mixed-precision")
_STRATEGIES = ("group", "channel", "tensor")
_DENSE_SINCE = (0, 18)


def recognises(_: Path, config: dict[str, Any]) -> bool:
    """Whether config.json says compressed-tensors."""
    block = config.get("quantization_config", config.get("compression_config"))
    return isinstance(block, dict) and block.get("quant_method") in ("compressed-tensors", "compressed_tensors")


def open_compressed_tensors(path: Path, config: dict[str, Any]) -> LowBitModel:
    """The reader's `open`."""
    block: dict[str, Any] = config.get("quantization_config") or config["compression_config"]
    form = block.get("format")
    if form not in _FORMATS:
        raise InputError(
            f"{_WHERE}.format: expected {', '.join(_FORMATS)}, got {form!r}; its levels are not even or its weights "
            "not whole, give the full-precision model"
        )
    for key in ("transform_config", "sparsity_config"):
        if block.get(key) and block[key].get("format") != "dense":
            raise InputError(f"{_WHERE}.{key}: the model computes more than its weights say; give one without it")
    groups = _groups(block)
    directory = Directory.open(path, config)
    weights = {}
    for module in directory.modules("weight_packed"):
        weights[module] = _packed(directory, module, _arguments(groups, module), _version(block))
    for module in directory.modules("weight"):
        if directory.stored[f"{module}.weight"].dtype == "I8":
            weights[module] = _unpacked(directory, module, _arguments(groups, module))
    return directory.model("compressed-tensors", weights, _notes(directory, block))


@dataclass(frozen=True)
class _Arguments:
    """How the weights of a group of modules are quantized."""

    bits: int
    symmetric: bool
    strategy: str
    size: int

    def columns(self, K: int, module: str) -> int:
        """Groups of a row."""
        if self.strategy != "group":
            return 1
        if self.size < 1:
            raise InputError(f"{module}: expected a group_size of 16 or a multiple of 32, got {self.size}")
        return -(-K // self.size)


def _groups(block: Mapping[str, Any]) -> list[tuple[list[str], _Arguments]]:
    """Targets and arguments of each group. Raises InputError where a group says no integers."""
    result = []
    configured = block.get("config_groups")
    if not isinstance(configured, dict) or not configured:
        raise InputError(f"{_WHERE}.config_groups: expected an object of groups")
    for name, group in configured.items():
        where = f"{_WHERE}.config_groups.{name}.weights"
        weights = group.get("weights") if isinstance(group, dict) else None
        if weights is None:
            continue
        strategy = weights.get("strategy") or ("group" if weights.get("group_size") else "tensor")
        if weights.get("type", "int") != "int":
            raise InputError(
                f"{where}.type: expected int, got {weights['type']!r}; its levels are not even, give the "
                "full-precision model"
            )
        if strategy not in _STRATEGIES:
            raise InputError(f"{where}.strategy: expected {', '.join(_STRATEGIES)}, got {strategy!r}")
        bits = integer(weights, "num_bits", where, 8)
        if not 1 <= bits <= 8:
            raise InputError(f"{where}.num_bits: expected 1 to 8, got {bits}")
        size = integer(weights, "group_size", where) if strategy == "group" else -1
        result.append(
            (list(group.get("targets") or []), _Arguments(bits, weights.get("symmetric", True), strategy, size))
        )
    return result


def _arguments(groups: list[tuple[list[str], _Arguments]], module: str) -> _Arguments:
    """Those of a module: a target is its name, or a pattern of names, or the class of layers, in this order."""
    by_name = [arguments for targets, arguments in groups if module in targets]
    by_pattern = [arguments for targets, arguments in groups if any(_matches(target, module) for target in targets)]
    by_class = [arguments for targets, arguments in groups if any(re.fullmatch(r"[A-Z]\w*", it) for it in targets)]
    found = dict.fromkeys(by_name or by_pattern or by_class)
    if len(found) != 1:
        many = "no group" if not found else "groups that differ"
        raise InputError(f"{module}: {many} of {_WHERE}.config_groups; expected one with the module as a target")
    return next(iter(found))


def _matches(target: str, module: str) -> bool:
    where = f"{_WHERE}.config_groups"
    return target.startswith("re:") and pattern(target.removeprefix("re:"), where).match(module) is not None


def _version(block: Mapping[str, Any]) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", str(block.get("version")))
    return None if found is None else (int(found[1]), int(found[2]))


def _packed(directory: Directory, module: str, arguments: _Arguments, version: tuple[int, int] | None) -> PackedWeight:
    bits = arguments.bits
    N, words = directory.take(f"{module}.weight_packed", ("I32",), (None, None))
    directory.take(f"{module}.weight_shape", ("I64", "I32"), (2,))
    rows, K = (int(length) for length in directory.array(f"{module}.weight_shape"))
    if rows != N or K < 1 or words not in (dense_words(bits, K), padded_words(bits, K)):
        raise InputError(
            f"{module}.weight_packed: [{N}, {words}] holds no [{rows}, {K}] of {bits} bits, which weight_shape and "
            "config.json say"
        )
    unpack = _packing(module, bits, words, K, version)
    count = dense_words if unpack is dense else padded_words

    def zeros(groups: int) -> npt.NDArray[np.uint8]:
        return unpack(directory.array(f"{module}.weight_zero_point").T, bits, N).T

    shape = {"group": ("I32", count(bits, N)), "channel": ("I32", count(bits, N)), "tensor": ("I8", None)}
    return _weight(
        directory,
        module,
        arguments,
        (N, K),
        lambda: unpack(directory.array(f"{module}.weight_packed"), bits, K),
        zeros,
        shape[arguments.strategy],
    )


def _packing(
    module: str, bits: int, words: int, K: int, version: tuple[int, int] | None
) -> Callable[[npt.NDArray[Any], int, int], npt.NDArray[np.uint8]]:
    """`dense` or `padded`, by the number of words, and where that is the same, by the version."""
    if 32 % bits == 0:
        return dense
    if dense_words(bits, K) != padded_words(bits, K):
        return dense if words == dense_words(bits, K) else padded
    if version is None:
        raise InputError(
            f"{module}.weight_packed: {bits} bits were packed in two ways, and neither the shape nor "
            f"{_WHERE}.version tells which; save the model again with compressed-tensors 0.18 or newer"
        )
    return dense if version >= _DENSE_SINCE else padded


def _unpacked(directory: Directory, module: str, arguments: _Arguments) -> PackedWeight:
    N, K = directory.take(f"{module}.weight", ("I8",), (None, None))
    bits = arguments.bits

    def zeros(groups: int) -> npt.NDArray[np.uint8]:
        stored = directory.array(f"{module}.weight_zero_point").reshape(-1, groups)
        return signed(f"{module}.weight_zero_point", stored, bits)

    def q() -> npt.NDArray[np.uint8]:
        return signed(f"{module}.weight", directory.array(f"{module}.weight"), bits)

    return _weight(
        directory, module, arguments, (N, K), q, zeros, ("I8", N if arguments.strategy != "tensor" else None)
    )


def _weight(
    directory: Directory,
    module: str,
    arguments: _Arguments,
    shape: tuple[int, int],
    q: Callable[[], npt.NDArray[np.uint8]],
    zeros: Callable[[int], npt.NDArray[np.uint8]],
    zero_shape: tuple[str, int | None],
) -> PackedWeight:
    """The weight of codes from 0 and zero points of the same kind; `zero_shape` is the type and the rows of these."""
    (N, K), bits = shape, arguments.bits
    groups = arguments.columns(K, module)
    whole = arguments.strategy == "tensor"
    scale, zero, g_idx = (f"{module}.weight_{part}" for part in ("scale", "zero_point", "g_idx"))
    column = [(N,)] if groups == 1 else []
    _take(directory, scale, tuple(FLOATS), [(1,), (1, 1)] if whole else [(N, groups), *column])
    G = group_size_of(module, [arguments.size], K, groups)
    has_zero = not arguments.symmetric
    if has_zero:
        kind, rows = zero_shape
        _take(directory, zero, (kind,), [(1,), (1, 1)] if whole else [(rows or N, groups), *column])
    elif zero in directory.stored:
        directory.used.add(zero)  # of a symmetric weight, all 0
    if g_idx in directory.stored:
        _take(directory, g_idx, ("I32", "I64"), [(K,)])

    def read() -> Numbers:
        codes = q()
        step = step_of(directory.array(scale)).reshape((1, 1) if whole else (N, groups))
        order = _order(directory, module, G, groups)
        middle = float(1 << (bits - 1))
        if has_zero and whole:
            middle += float(directory.array(zero).reshape(()))
        points = zeros(groups).astype(np.int32) if has_zero and not whole else None
        if not has_zero and zero in directory.stored and directory.array(zero).any():
            raise InputError(f"{zero}: expected zeros, as config.json says that the weight is symmetric")
        codes = codes if order is None else np.ascontiguousarray(codes[:, order])
        return Numbers(codes, step, middle if points is None else np.ascontiguousarray(points), order=order)

    names = [name for name in directory.used if name.startswith(f"{module}.weight")]
    size = {"tensor": "one scale", "channel": "one group a row"}.get(arguments.strategy, f"groups of {arguments.size}")
    kind = f"compressed-tensors, {bits} bits, {size}"
    return PackedWeight(kind, N, K, bits, G, directory.bits_per_weight(names, N * K), read)


def _take(directory: Directory, name: str, types: tuple[str, ...], shapes: list[tuple[int, ...]]) -> None:
    """Take a tensor of one of these shapes."""
    stored = directory.stored.get(name)
    fits = [shape for shape in shapes if stored is not None and stored.shape == shape]
    directory.take(name, types, (fits or shapes)[0])


def _order(directory: Directory, module: str, G: int, groups: int) -> npt.NDArray[np.int32] | None:
    name = f"{module}.weight_g_idx"
    if name not in directory.stored:
        return None
    g_idx = directory.array(name)
    return None if (g_idx == -1).all() else by_groups(name, g_idx, G, groups)


def _notes(directory: Directory, block: Mapping[str, Any]) -> Iterable[str]:
    """What to say of inputs, outputs and caches that the model quantizes when it runs; their ranges go."""
    notes = []
    for key, what in (("input_activations", "inputs"), ("output_activations", "outputs")):
        for group in block["config_groups"].values():
            if arguments := group.get(key):
                if not isinstance(arguments, dict):
                    raise InputError(f"quantization_config.config_groups: {key}: expected an object, got {arguments!r}")
                ranges = "ranges of each call" if arguments.get("dynamic") else "fixed ranges"
                notes.append(
                    f"{what} were quantized to {arguments.get('num_bits')} bits in {ranges}; here they are not"
                )
    if block.get("kv_cache_scheme"):
        notes.append("the cache of keys and values was quantized; here it is not")
    directory.drop(r".*\.((input|output)_(scale|zero_point|global_scale)|[kvq]_(scale|zero_point))")
    return dict.fromkeys(notes)
