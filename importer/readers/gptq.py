"""GPTQ: integers packed along the inputs, zero points packed along the outputs, stored as they are or less one.

    qweight  int32 [K·b/32, N]       q, dense along K
    qzeros   int32 [K/G, N·b/32]     zero points, dense along N
    scales   float [K/G, N]
    g_idx    int32 [K]               the group of each input; may be absent

w[n,k] = scales[g,n] · (q[k,n] - zero[g,n]). Which zero points are stored, `checkpoint_format` says, and it is often
wrong; `settle` looks at the values.

Source: GPTQModel 7.7.0, gptqmodel/utils/model.py, utils/planar_packing.py, quantization/config.py.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualbinary import InputError
from dualbinary.files.json_objects import read_json_object
from importer.model import LowBitModel, Numbers, PackedWeight
from importer.modules import configuration, modules_of
from importer.readers.directory import FLOATS, Directory, bits_of, by_groups, group_size_of, integer, step_of
from importer.readers.words import dense, dense_words, planar

__all__ = ["CONVENTIONS", "Layer", "layers_of", "open_gptq", "packed_weight", "recognises", "settle", "zeros_of"]

_SHOWN = 80  # characters of a pattern in a message
_MAX_PATTERN, _MAX_REPEATED = 1000, 4
_REPEATS = "*+{"

WIDTHS = (2, 3, 4, 5, 6, 7, 8)

_OLD_CONFIG = "quantize_config.json"  # of AutoGPTQ, beside a config.json without a block

# What was subtracted from whole words: one from each field. A field of 0 borrows from the next one.
_ONES = {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}
# GPTQModel before 7 did it so at 3 bits too, but with the constants of the first and the third word exchanged.
_EXCHANGED = (0x24924924, 0x92492492, 0x49249249)


def recognises(path: Path, config: dict[str, Any]) -> bool:
    """Whether config.json, or a file of AutoGPTQ beside it, says GPTQ."""
    block = config.get("quantization_config")
    if block is None:
        return path.is_dir() and (path / _OLD_CONFIG).is_file()
    return isinstance(block, dict) and block.get("quant_method") in ("gptq", "gptqmodel", "gptaq")


def open_gptq(path: Path, config: dict[str, Any]) -> LowBitModel:
    """The reader's `open`."""
    block = config.get("quantization_config")
    block = read_json_object(path / _OLD_CONFIG) if block is None else block
    where = "quantization_config"
    form = str(block.get("checkpoint_format") or block.get("format") or "gptq").lower()
    if block.get("is_marlin_format") or form not in ("gptq", "gptq_v2", "gptq_p"):
        form = "marlin" if block.get("is_marlin_format") else form
        raise InputError(
            f"{where}.checkpoint_format: expected gptq, gptq_v2 or gptq_p, got {form!r}; save the model as gptq"
        )
    refuse_transforms(block)
    directory = Directory.open(path, config)
    bits, size = integer(block, "bits", where), integer(block, "group_size", where)
    dynamic = overrides(block.get("dynamic"), f"{where}.dynamic")
    layers = layers_of(directory, lambda module: declared(dynamic, module, bits, size), is_planar=form == "gptq_p")
    label, other = ("v1", "v2") if form == "gptq" else ("v2", "v1")
    convention, notes = settle(directory, layers, label, other) if form != "gptq_p" else ("v2", [])
    weights = {layer.module: packed_weight(directory, layer, convention, "gptq") for layer in layers}
    return directory.model("gptq", weights, [*notes, *_spare_biases(directory, weights)])


def _spare_biases(directory: Directory, modules: Iterable[str]) -> list[str]:
    """Set apart biases of zeros, which AutoGPTQ writes beside every weight, where the model has none; returns notes."""
    biases = {f"{module}.bias" for module in modules}
    found = [name for name, it in directory.stored.items() if name in biases and it.dtype in FLOATS]
    zeros = [name for name in found if not directory.array(name).any()]
    if not zeros:
        return []
    path, config = directory.path, directory.own_config
    try:
        parameters = modules_of(configuration(config, path), path).parameters
    except InputError:  # no model that transformers knows, whose weights can be read all the same
        return [f"{len(zeros)} biases are zeros, such as {zeros[0]}; whether the model has them is not known"]
    own = {name: directory.own_name(name) or name for name in zeros}
    spare = [n for n in zeros if own[n] not in parameters and f"{own[n].removesuffix('bias')}weight" in parameters]
    directory.used.update(spare)
    kind = config.get("model_type")
    return [f"left out {len(spare)} biases of zeros, such as {spare[0]}: a {kind} has none there"] if spare else []


@dataclass(frozen=True)
class Layer:
    """One weight in these words, known from headers. `G` is -1 for one group a row; `columns` says of g_idx."""

    module: str
    N: int
    K: int
    bits: int
    G: int
    groups: int
    is_planar: bool
    has_g_idx: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that it is made of."""
        parts = ("qweight", "qzeros", "scales", *(("g_idx",) if self.has_g_idx else ()))
        return tuple(f"{self.module}.{part}" for part in parts)


def layers_of(
    directory: Directory, said: Callable[[str], tuple[list[int], list[int]]], *, is_planar: bool = False
) -> list[Layer]:
    """All weights in these words; `said` gives the widths and the group sizes that the config has for a module.

    Raises InputError where a tensor is missing, or shapes contradict one another or the config.
    """
    layers = []
    for module in directory.modules("qweight"):
        rows, N = directory.take(f"{module}.qweight", ("I32",), (None, None))
        groups, words = directory.take(f"{module}.qzeros", ("I32",), (None, None))
        directory.take(f"{module}.scales", FLOATS, (groups, N), "as many as qzeros and qweight say")
        widths, sizes = said(module)
        fits = {b: words == dense_words(b, N) and rows * 32 % b == 0 for b in WIDTHS}
        bits = bits_of(module, widths, fits)
        K = rows * 32 // bits
        has_g_idx = f"{module}.g_idx" in directory.stored
        if has_g_idx:
            directory.take(f"{module}.g_idx", ("I32", "I64"), (K,), f"{rows} words of {bits} bits")
        if directory.config.get("vocab_size") == K and "embed" in module:
            raise InputError(f"{module}: a table in groups of rows; quantize again without the embedding")
        G = group_size_of(module, sizes, K, groups)
        layers.append(Layer(module, N, K, bits, G, groups, is_planar, has_g_idx))
    return layers


def packed_weight(directory: Directory, layer: Layer, convention: str, form: str) -> PackedWeight:
    """What a layer is, with its reading."""

    def read() -> Numbers:
        unpack = planar if layer.is_planar else dense
        q = unpack(directory.array(f"{layer.module}.qweight").T, layer.bits, layer.K)
        order = None
        if layer.has_g_idx:
            name = f"{layer.module}.g_idx"
            order = by_groups(name, directory.array(name), layer.G, layer.groups)
        zeros = zeros_of(directory.array(f"{layer.module}.qzeros"), layer.bits, layer.N, convention, layer.is_planar)
        step = step_of(directory.array(f"{layer.module}.scales").T)
        q = q if order is None else q[:, order]
        return Numbers(np.ascontiguousarray(q), np.ascontiguousarray(step), np.ascontiguousarray(zeros.T), order=order)

    size = "one group a row" if layer.G == -1 else f"groups of {layer.G}"
    bits = directory.bits_per_weight(layer.names, layer.N * layer.K)
    return PackedWeight(f"{form}, {layer.bits} bits, {size}", layer.N, layer.K, layer.bits, layer.G, bits, read)


CONVENTIONS = {
    "v1": "stored less one",
    "v1 by field": "stored less one",
    "v2": "stored as they are",
    "v1 of old GPTQModel": "stored less the constants that GPTQModel took at 3 bits before version 7",
}
"""How zero points are stored."""


def zeros_of(
    words: npt.NDArray[np.int32], bits: int, N: int, convention: str, is_planar: bool = False
) -> npt.NDArray[np.int32]:
    """The zero points, int32 [groups, N], from 0 to 2^bits - 1; by field, from 1 to 2^bits."""
    unsigned = words.view(np.uint32)
    if convention == "v1" and bits in _ONES:
        unsigned = unsigned + np.uint32(_ONES[bits])  # wraps, as the subtraction did
    if convention == "v1 of old GPTQModel":
        unsigned = unsigned + np.resize(np.array(_EXCHANGED, np.uint32), unsigned.shape[1])
    zeros = (planar if is_planar else dense)(unsigned, bits, N).astype(np.int32)
    if convention == "v1 by field":
        return zeros + 1
    if convention == "v1" and bits not in _ONES:  # fields that cross words are taken one by one
        zeros = (zeros + 1) & ((1 << bits) - 1)
    return zeros


# A step of 8 bits is a hundredth of a weight's deviation: a mean as small as that says nothing.
_COARSE = 4
_SAMPLED_LAYERS = 8
_SAMPLED_OUTPUTS = 64
_SURE = 4.0  # standard errors on either side


def settle(directory: Directory, layers: list[Layer], label: str, other: str) -> tuple[str, list[str]]:
    """How the zero points of a directory are stored, and what to say of it.

    Weights of a layer are about zero in the mean, so of few bits the right reading has zero points about the mean of q,
    and another one is off by one step. That, with symmetric grids (all zero points 2^(b-1)), outvotes `label`,
    the convention of which the config tells, in favor of `other`.
    """
    every = max(1, len(layers) // _SAMPLED_LAYERS)
    sample = [layer for layer in layers[::every] if not layer.is_planar][:_SAMPLED_LAYERS]
    three = bool(sample) and all(layer.bits == 3 and dense_words(3, layer.N) % 3 == 0 for layer in sample)
    candidates = [label, other, *(["v1 of old GPTQModel"] if three and "v1" in (label, other) else [])]
    symmetric = [name for name in candidates if sample and all(_is_symmetric(directory, it, name) for it in sample)]
    coarse = [layer for layer in sample if layer.bits <= _COARSE]
    centered = [name for name in candidates if coarse and _is_centered(directory, coarse, name)]
    if symmetric == ["v2"]:
        found, why = "v2", "all of them are 2^(bits-1) so, a symmetric grid"
    elif len(centered) == 1:
        found, why = centered[0], "so they are about the mean of their weights' integers"
    elif len(symmetric) == 1:
        found, why = symmetric[0], "all of them are 2^(bits-1) so, a symmetric grid"
    else:
        return label, [f"zero points are taken to be {CONVENTIONS[label]} ({label}), as config.json says"]
    says = "" if found == label else f"; config.json says {label}, and the values decide"
    return found, [f"zero points are taken to be {CONVENTIONS[found]} ({found}): {why}{says}"]


def _is_symmetric(directory: Directory, layer: Layer, convention: str) -> bool:
    zeros = zeros_of(directory.array(f"{layer.module}.qzeros"), layer.bits, layer.N, convention)
    return bool((zeros == 1 << (layer.bits - 1)).all())


def _is_centered(directory: Directory, layers: list[Layer], convention: str) -> bool:
    """Whether q - zero is surely less than half a step in the mean over the sample."""
    differences = []
    for layer in layers:
        words = directory.columns(f"{layer.module}.qweight", _SAMPLED_OUTPUTS)
        q = dense(words.T, layer.bits, layer.K)
        zeros = zeros_of(directory.array(f"{layer.module}.qzeros"), layer.bits, layer.N, convention)[:, : len(q)]
        size = layer.K if layer.G == -1 else layer.G
        sizes = np.minimum(size, layer.K - size * np.arange(layer.groups))
        differences.append(q.mean(axis=1) - sizes @ zeros / layer.K)
    every = np.concatenate(differences)
    error = every.std() / np.sqrt(len(every))
    return len(every) > 1 and abs(every.mean()) + _SURE * error < 0.5


def overrides(dynamic: object, where: str) -> list[tuple[re.Pattern[str], bool, Mapping[str, Any]]]:
    """The patterns of GPTQModel's `dynamic`: each with whether it takes modules out, and what it says of them."""
    if dynamic is None:
        return []
    if not isinstance(dynamic, dict):
        raise InputError(f"{where}: expected an object of patterns, got {type(dynamic).__name__}")
    result = []
    for key, values in dynamic.items():
        if not isinstance(values, dict):
            raise InputError(f"{where}.{key}: expected an object, got {type(values).__name__}")
        result.append((pattern(key[2:] if key[:2] in ("-:", "+:") else key, where), key.startswith("-:"), values))
    return result


def pattern(text: str, where: str) -> re.Pattern[str]:
    """A regular expression of a config. Raises InputError where it is none, or one that could search for ever.

    Names of modules have a few points at which a search can go on in two ways. What multiplies these is refused: a
    repeated group that repeats or chooses inside, and more than a few repetitions in a row.
    """
    shown = ascii(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
    if len(text) > _MAX_PATTERN or _multiplies(text):
        raise InputError(
            f"{where}: {shown} could take for ever to match; expected at most {_MAX_REPEATED} repetitions, none "
            "of them inside another one"
        )
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(f"{where}: {shown} is not a regular expression ({error})") from None


def _multiplies(text: str) -> bool:
    """Whether a pattern has too many repetitions, or one of what repeats or chooses itself."""
    plain = re.sub(r"\\.|\[\^?\]?[^]]*\]", "x", text, flags=re.DOTALL)  # what is escaped or in brackets is one letter
    groups = [False]  # whether each group that is open, and the whole, has a repetition or a choice inside
    inner = False  # whether the group that ended just now had
    for letter in plain:
        if letter in _REPEATS and inner:
            return True
        inner = letter == ")" and len(groups) > 1 and groups.pop()
        if letter == "(":
            groups.append(False)
        elif letter in _REPEATS or letter == "|" or inner:
            groups[-1] = True
    return sum(plain.count(letter) for letter in _REPEATS) > _MAX_REPEATED


def declared(
    dynamic: list[tuple[re.Pattern[str], bool, Mapping[str, Any]]], module: str, bits: int, size: int
) -> tuple[list[int], list[int]]:
    """The widths and group sizes that a config has for a module: of the first pattern that matches, else the default.

    Raises InputError where the pattern says that the module is not quantized.
    """
    for expression, leaves_out, values in dynamic:
        if expression.match(module):
            if leaves_out:
                raise InputError(f"{module}.qweight: not expected; quantization_config.dynamic leaves {module} out")
            where = f"quantization_config.dynamic.{expression.pattern}"
            return [integer(values, "bits", where, bits)], [integer(values, "group_size", where, size)]
    return [bits], [size]


_TRANSFORMS = ("rotation", "rotation_config", "adapter", "lora", "transform_config", "svd")


def refuse_transforms(block: Mapping[str, Any], keys: Iterable[str] = _TRANSFORMS) -> None:
    """Refuse a block that says of inputs or weights what integers and scales do not say."""
    for key in keys:
        if block.get(key):
            raise InputError(
                f"quantization_config.{key}: the model computes more than its weights say; give one without it, or the "
                "full-precision model"
            )
