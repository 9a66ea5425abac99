"""Declared rotations: weights that were folded with a signed blockwise Walsh-Hadamard transform of their inputs.

Files say it under keys `prism.hadamard.*`, in GGUF's metadata or in a JSON file beside a model of MLX:

    version                1; 2 says that the head is the folded table of tokens (tied_output)
    block_size             a power of two that divides the inputs of every folded weight
    transform, axis        the transform that this is, along the inputs
    sign_mode              identity, or explicit with sign_widths and sign_values: a sign for each input of a weight so
                           wide, one width after the other
    weight_names           weights that multiply rotated inputs
    inverse_weight_names   the table of tokens, if its rows are to be turned back once they are looked up
    gdn_v_grouped          whether values of linear attention were in groups, as transformers has them, when the weight
                           of its output was folded; else it cannot be told apart for transformers' order

Source: github.com/PrismML-Eng/llama.cpp, pull requests 119 to 121.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shown
from typing import Any

import numpy as np
import numpy.typing as npt

from dualbinary import HADAMARD, InputError
from dualbinary.contract.rotation import Rotation

__all__ = ["PREFIX", "Declaration", "Names", "read_declaration"]

PREFIX = "prism.hadamard."
_TEXTS = {"transform": "normalized-sylvester-walsh-hadamard", "axis": "input-last-dimension"}
_KNOWN = (
    "version", "block_size", *_TEXTS, "sign_mode", "sign_widths", "sign_values", "weight_names",
    "inverse_weight_names", "gdn_v_grouped", "tied_output",
)  # fmt: skip
_VERSIONS = (1, 2)
_MOST = 2**31  # of a width
_WAY_OUT = "give the full-precision model"


@dataclass(frozen=True)
class Names:
    """What tensors of a format are called.

    Attributes:
        foldable: full names of weights that may multiply rotated inputs.
        grouped: those of them that need `gdn_v_grouped`.
        table: the table of tokens.
        head: the weight of the head.
    """

    foldable: re.Pattern[str]
    grouped: re.Pattern[str]
    table: str
    head: str


@dataclass(frozen=True)
class Declaration:
    """The rotations of a model, by the names of tensors."""

    rotations: Mapping[str, Rotation]

    def rotation(self, tensor: str) -> Rotation | None:
        """The rotation of the inputs of a weight, or of the rows of the table of tokens; None where there is none."""
        return self.rotations.get(tensor)

    def note(self) -> str:
        """A sentence for people."""
        sizes = sorted({rotation.block_size for rotation in self.rotations.values()})
        return (
            f"{len(self.rotations)} weights are folded with a Walsh-Hadamard transform in blocks of "
            f"{', '.join(map(str, sizes))}; their inputs are rotated as the model runs"
        )


def read_declaration(
    values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], names: Names, where: Path
) -> Declaration | None:
    """The declaration among `values`, all metadata of the file `where`; None where none of them is of one.

    `shapes` are those of the model's tensors, [N, K] of a weight. Raises InputError, naming the key, for whatever is
    contradictory or not known exactly: a model that is rotated in another way gives text without sense.
    """
    own = {key.removeprefix(PREFIX): value for key, value in values.items() if key.startswith(PREFIX)}
    return _Reader(own, shapes, names, where).declaration() if own else None


class _Reader:
    def __init__(
        self, values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], names: Names, where: Path
    ) -> None:
        self._values, self._shapes, self._names, self._where = values, shapes, names, where

    def declaration(self) -> Declaration:
        for key in self._values:
            if key not in _KNOWN:
                raise InputError(
                    f"{self._where}: {PREFIX}{key} declares a rotation that this release does not know; {_WAY_OUT}"
                )
        version = self._whole("version")
        self._require(version in _VERSIONS, "version", f"one of {', '.join(map(str, _VERSIONS))}", version)
        for key, text in _TEXTS.items():
            self._require(self._values.get(key) == text, key, text, self._values.get(key))
        block_size, most = self._whole("block_size"), HADAMARD.limits["max_block_size"]
        power = 2 <= block_size <= most and block_size & (block_size - 1) == 0
        self._require(power, "block_size", f"a power of two from 2 to {most}", block_size)
        weights, tables = self._tensors("weight_names"), self._tensors("inverse_weight_names")
        self._check_names(weights, tables)
        self._check_head(version, tables)
        signs = self._signs()
        rotations = {}
        for key, tensors in (("weight_names", weights), ("inverse_weight_names", tables)):
            for tensor in tensors:
                rotations[tensor] = self._rotation(key, tensor, block_size, signs)
        return Declaration(rotations)

    def _rotation(
        self, key: str, tensor: str, block_size: int, signs: Mapping[int, npt.NDArray[np.int8]] | None
    ) -> Rotation:
        K = self._shapes[tensor][-1]
        if K % block_size:
            raise self._fail("block_size", f"a number that divides the {K} inputs of {tensor!r}", block_size)
        if signs is not None and K not in signs:
            raise self._fail("sign_widths", f"{K} among them, the inputs of {tensor!r} of {key}", list(signs))
        return Rotation(block_size, np.ones(K, np.int8) if signs is None else signs[K])

    def _check_names(self, weights: list[str], tables: list[str]) -> None:
        if not weights and not tables:
            raise self._fail("weight_names", "names of tensors", [])
        for tensor in weights:
            known = self._names.foldable.fullmatch(tensor) is not None
            self._require(known, "weight_names", "weights of linear layers that this release knows as folded", tensor)
            if self._names.grouped.fullmatch(tensor) and self._flag("gdn_v_grouped") is not True:
                raise self._fail("gdn_v_grouped", f"true where {tensor!r} is folded", False)
        for tensor in tables:
            self._require(tensor == self._names.table, "inverse_weight_names", self._names.table, tensor)

    def _check_head(self, version: int, tables: list[str]) -> None:
        """A tied head multiplies with the folded table, which version 2 alone says."""
        tied, has_head = self._flag("tied_output"), self._names.head in self._shapes
        if version == 1:
            self._require(not tied, "tied_output", "false in version 1", tied)
            if tables and not has_head:
                raise self._fail("version", f"2 for a folded table without {self._names.head!r}", version)
            return
        self._require(tied, "tied_output", "true in version 2", tied)
        if has_head or not tables:
            got = f"with {self._names.head!r}" if has_head else "without inverse_weight_names"
            raise self._fail("tied_output", "true only where the head is the folded table of tokens", f"true {got}")

    def _signs(self) -> dict[int, npt.NDArray[np.int8]] | None:
        """The signs by number of inputs; None where all are 1."""
        mode = self._values.get("sign_mode")
        self._require(mode in ("identity", "explicit"), "sign_mode", "identity or explicit", mode)
        widths, values = self._numbers("sign_widths"), self._numbers("sign_values")
        if mode == "identity":
            for key, given in (("sign_widths", widths), ("sign_values", values)):
                self._require(not given.size, key, "none where sign_mode is identity", given.tolist())
            return None
        total = int(widths.sum())
        self._require(bool((widths > 0).all()) and widths.size > 0, "sign_widths", "numbers above 0", widths.tolist())
        self._require(len(set(widths.tolist())) == widths.size, "sign_widths", "each number once", widths.tolist())
        self._require(len(values) == total, "sign_values", f"{total} signs, as sign_widths say", len(values))
        wrong = values[np.abs(values) != 1]
        self._require(not wrong.size, "sign_values", "1 or -1", wrong[:1].tolist())
        parts = np.split(values.astype(np.int8), np.cumsum(widths)[:-1])
        return dict(zip(widths.tolist(), parts, strict=True))

    def _tensors(self, key: str) -> list[str]:
        """Names of matrices of the file, each once."""
        value = self._values.get(key, [])
        if isinstance(value, np.ndarray) and not value.size:  # an empty list in GGUF is one of numbers
            return []
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise self._fail(key, "names of tensors", value)
        for name in value:
            self._require(len(self._shapes.get(name, ())) == 2, key, "names of weights that are there", name)
            self._require(value.count(name) == 1, key, "each name once", name)
        return value

    def _numbers(self, key: str) -> npt.NDArray[np.int64]:
        value = self._values.get(key, [])
        array = np.asarray(value, dtype=None if isinstance(value, list | np.ndarray) else object)
        array = array.astype(np.float64) if array.dtype.kind in "iuf" and array.ndim == 1 else None
        whole = array is not None and bool((np.abs(array) < _MOST).all()) and bool((array == np.rint(array)).all())
        self._require(whole, key, "whole numbers", value)
        assert array is not None
        return array.astype(np.int64)

    def _whole(self, key: str) -> int:
        value = self._values.get(key)
        if type(value) is not int:
            raise self._fail(key, "a whole number", value)
        return value

    def _flag(self, key: str) -> bool:
        value = self._values.get(key, False)
        self._require(isinstance(value, bool), key, "true or false", value)
        return value

    def _require(self, allowed: bool, key: str, expected: str, got: object) -> None:
        if not allowed:
            raise self._fail(key, expected, got)

    def _fail(self, key: str, expected: str, got: object) -> InputError:
        return InputError(f"{self._where}: {PREFIX}{key}: expected {expected}, got {shown(got)}; {_WAY_OUT}")
