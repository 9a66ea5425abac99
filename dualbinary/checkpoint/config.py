"""The block "quantization_config" of a checkpoint's config.json: a default format, and overrides by module."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from dualbinary.contract.schema import HADAMARD, OP
from dualbinary.contract.weight import EACH_GROUP, LEVELS, PER_CHANNEL, PlaneFormat
from dualbinary.errors import InputError

QUANT_METHOD = "dualbinary"
VERSIONS = (1, 2, 3, 4)  # that are read; a checkpoint is written in the oldest that can say what it holds
FORMAT_VERSION = VERSIONS[-1]
METHODS = ("fdb", "fit", "imported", "qbb")  # who chose the planes; the stored form means the same for all

PER_TENSOR = "tensor"
"""A group_size: one group for all of a weight, with even levels."""

FORMAT_KEYS = ("planes", "group_size", "has_offset", "levels", "zero")
"""The keys that say a format: of the default at the top, and of an override those that differ."""

ROTATION = "rotation"
"""Since version 4 the key of a module whose weight multiplies rotated inputs: {"block_size": B}, or null for none."""

_OVERRIDE_KEYS = (*FORMAT_KEYS, ROTATION)
_REQUIRED = ("method", "planes", "group_size", "has_offset", "modules_to_not_convert")
_OPTIONAL = {"levels": 3, "zero": 3, "overrides": 3, ROTATION: 4}  # and the version that brought them
_KEY_OF_FIELD = {"offset": "has_offset"}  # where the names of PlaneFormat are others


@dataclass(frozen=True)
class QuantizationConfig:
    """The block "quantization_config" of config.json. Construction raises InputError where a value is not allowed.

    Attributes:
        method: one of METHODS.
        planes: P.
        group_size: G, a multiple of 32, or PER_CHANNEL; with even levels also 16 or PER_TENSOR.
        has_offset: whether the last row of the scales is an offset.
        modules_to_not_convert: full names of the Linear modules that keep their weight.
        levels: "free", "symmetric" or "even"; None for what the method decides, which is "symmetric" for qbb with an
            offset and else "free".
        zero: zero point of even levels, a number or EACH_GROUP.
        overrides: by full names of modules, the values of FORMAT_KEYS that differ from the default, which the
            attributes above are, or another "rotation". A vocabulary table is quantized only where it has an entry
            here.
        rotation: {"block_size": B} where weights multiply inputs that a signed Walsh-Hadamard transform rotated
            (Rotation of the contract); None where they multiply X. The signs are a tensor of each module.
    """

    method: str
    planes: int
    group_size: int | str
    has_offset: bool
    modules_to_not_convert: tuple[str, ...] = ()
    levels: str | None = None
    zero: float | str = 0.0
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    rotation: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        names = self.modules_to_not_convert
        _require(self.method in METHODS, "method", f"one of {', '.join(METHODS)}", self.method)
        _require(
            isinstance(names, tuple) and all(isinstance(name, str) and name for name in names),
            "modules_to_not_convert",
            "a list of module names",
            names,
        )
        _check_rotation(self.rotation)
        self._check_overrides()
        if self.levels == self._decided_levels(self.plane_format.offset):
            object.__setattr__(self, "levels", None)
        _ = self.formats

    @classmethod
    def of_formats(
        cls,
        method: str,
        default: PlaneFormat,
        formats: Mapping[str, PlaneFormat],
        modules_to_not_convert: tuple[str, ...] = (),
        tables: Mapping[str, PlaneFormat] | None = None,
        rotations: Mapping[str, int] | None = None,
    ) -> "QuantizationConfig":
        """The config under which each module of `formats` has its format, and every other one has `default`.

        `tables` are the formats of vocabulary tables, which are quantized only where an override names them: theirs
        say every value. `rotations` are the block sizes of modules of either kind whose inputs are rotated.
        """
        base = _values_of(default)
        overrides = {module: _values_of(form) for module, form in (tables or {}).items()}
        for module, form in formats.items():
            values = _values_of(form)
            differing = {key: value for key, value in values.items() if value != base[key]}
            if "has_offset" in differing:  # by which the method could decide other levels
                differing["levels"] = values["levels"]
            if differing:
                overrides[module] = differing
        for module, block_size in (rotations or {}).items():
            overrides.setdefault(module, {})[ROTATION] = {"block_size": block_size}
        return cls(method, **base, modules_to_not_convert=modules_to_not_convert, overrides=overrides)

    @cached_property
    def plane_format(self) -> PlaneFormat:
        """The form of the modules without an override, in layout plain; a module says the type of its scales itself."""
        return self._format({}, "")

    def format_of(self, module: str) -> PlaneFormat:
        """The form of `module`, in layout plain; the module says the type of its scales itself."""
        return self._own_formats.get(module, self.plane_format)

    def block_size_of(self, module: str) -> int | None:
        """The block size of the rotation of the inputs of `module`; None where they are not rotated."""
        rotation = self.overrides.get(module, {}).get(ROTATION, self.rotation)
        return None if rotation is None else rotation["block_size"]

    @property
    def formats(self) -> tuple[PlaneFormat, ...]:
        """The default and the formats of the overrides, each once."""
        return tuple(dict.fromkeys((self.plane_format, *self._own_formats.values())))

    @property
    def format_version(self) -> int:
        """The oldest version that can say this."""
        if self.rotation is not None or any(ROTATION in override for override in self.overrides.values()):
            return _OPTIONAL[ROTATION]
        if self.overrides or self.levels is not None or self.zero != 0 or self.group_size == PER_TENSOR:
            return 3
        return 2 if self.group_size == PER_CHANNEL else 1

    def to_dict(self) -> dict[str, Any]:
        """The block as it is written to config.json; a newer key than version 1 is left out at its default."""
        block: dict[str, Any] = {"quant_method": QUANT_METHOD, "format_version": self.format_version}
        block |= {"method": self.method, "planes": self.planes, "group_size": self.group_size}
        block["has_offset"] = self.has_offset
        if self.levels is not None:
            block["levels"] = self.levels
        if self.zero != 0:
            block["zero"] = self.zero
        if self.rotation is not None:
            block[ROTATION] = dict(self.rotation)
        if self.overrides:
            block["overrides"] = {module: dict(override) for module, override in self.overrides.items()}
        return {**block, "modules_to_not_convert": list(self.modules_to_not_convert)}

    @classmethod
    def from_dict(cls, block: object) -> "QuantizationConfig":
        """Read a block that came from a file. Raises InputError, naming the key, for whatever is not exactly right."""
        if not isinstance(block, dict):
            raise InputError(f"quantization_config: expected an object, got {shown(block)}")
        method = block.get("quant_method")
        _require(method == QUANT_METHOD, "quant_method", f'"{QUANT_METHOD}"', method)
        version = _known_version(block.get("format_version"))
        values = {key: value for key, value in block.items() if key not in ("quant_method", "format_version")}
        known = (*_REQUIRED, *(key for key, since in _OPTIONAL.items() if since <= version))
        for key in values:
            if key not in known:
                newer = f"; {key} is of format_version {_OPTIONAL[key]}" if key in _OPTIONAL else ""
                raise InputError(f"quantization_config.{key}: unknown key; expected {', '.join(known)}{newer}")
        for key in _REQUIRED:
            if key not in values:
                raise InputError(f"quantization_config.{key}: missing; expected in format_version {version}")
        names = values["modules_to_not_convert"]
        _require(isinstance(names, list), "modules_to_not_convert", "a list of module names", names)
        _check_levels(values)
        config = cls(**{**values, "modules_to_not_convert": tuple(names)})
        if version < config.format_version == _OPTIONAL[ROTATION]:
            raise InputError(
                f"quantization_config.overrides: {ROTATION} is of format_version {config.format_version}, got {version}"
            )
        if version < config.format_version:  # only a group size can be newer than the keys
            channel = f", or {PER_CHANNEL}" if version == 2 else ""
            expected = f"a positive multiple of {OP.limits['group_multiple']}{channel} in format_version {version}"
            _require(False, "group_size", expected, config.group_size)
        return config

    @cached_property
    def _own_formats(self) -> dict[str, PlaneFormat]:
        return {
            module: self._format(override, f"overrides.{shown_name(module)}.")
            for module, override in self.overrides.items()
        }

    def _decided_levels(self, offset: bool) -> str:
        return "symmetric" if self.method == "qbb" and offset else "free"

    def _format(self, override: Mapping[str, Any], where: str) -> PlaneFormat:
        """The default with the values of an override; `where` are its keys, for errors."""
        values = {key: override.get(key, getattr(self, key)) for key in FORMAT_KEYS}
        size, offset, levels = values["group_size"], values["has_offset"], values["levels"]
        _require(type(offset) is bool, f"{where}has_offset", "true or false", offset)
        levels = self._decided_levels(offset) if levels is None else levels
        per_tensor = size == PER_TENSOR
        if per_tensor and (levels != "even" or values["zero"] == EACH_GROUP):
            _require(False, f"{where}group_size", "a number, or even levels with one zero for all groups", size)
        size = PER_CHANNEL if per_tensor else size
        try:
            return PlaneFormat(
                values["planes"], size, offset, levels=levels, zero=values["zero"], per_tensor=per_tensor
            )
        except InputError as error:
            name, _, text = str(error).rpartition(", got ")[0].partition(": ")
            key = _KEY_OF_FIELD.get(name, name)
            whose = "" if key in override or not override else " of the default; give another one here"
            raise InputError(f"quantization_config.{where}{key}: {text}, got {shown(values[key])}{whose}") from None

    def _check_overrides(self) -> None:
        _require(isinstance(self.overrides, dict), "overrides", "an object of module names", self.overrides)
        for module, override in self.overrides.items():
            _require(isinstance(module, str) and bool(module), "overrides", "module names", module)
            where = f"overrides.{shown_name(module)}"
            known = ", ".join(_OVERRIDE_KEYS)
            _require(isinstance(override, dict), where, f"an object with keys of {known}", override)
            for key in override:
                if key not in _OVERRIDE_KEYS:
                    raise InputError(f"quantization_config.{where}.{shown_name(key)}: unknown key; expected {known}")
            _check_levels(override, f"{where}.")
            _check_rotation(override.get(ROTATION), f"{where}.")
            if module in self.modules_to_not_convert:
                raise InputError(f"quantization_config.{where}: modules_to_not_convert names the module too; keep one")


def _values_of(form: PlaneFormat) -> dict[str, Any]:
    """The values of FORMAT_KEYS that say `form`."""
    size = PER_TENSOR if form.per_tensor else form.group_size
    return dict(zip(FORMAT_KEYS, (form.planes, size, form.offset, form.levels, form.zero), strict=True))


def _known_version(version: object) -> int:
    if type(version) is int and version > FORMAT_VERSION:
        raise InputError(
            f"quantization_config.format_version: {version} is newer than {FORMAT_VERSION}, the newest that this "
            "release reads; upgrade dualbinary"
        )
    if type(version) is not int or version not in VERSIONS:
        raise InputError(f"quantization_config.format_version: expected 1, 2, 3 or 4, got {shown(version)}")
    return version


def _check_levels(values: Mapping[str, Any], where: str = "") -> None:
    """Refuse levels that are none; who means what the method decides leaves them out."""
    if "levels" in values:
        _require(values["levels"] in LEVELS, f"{where}levels", f"one of {', '.join(LEVELS)}", values["levels"])


def _check_rotation(value: object, where: str = "") -> None:
    """Refuse a rotation that is none; that its block size fits the inputs of a module is for `check_modules`."""
    if value is None:
        return
    known = isinstance(value, dict) and set(value) == {"block_size"}
    _require(known, f"{where}{ROTATION}", 'null or {"block_size": B}', value)
    size = value["block_size"] if isinstance(value, dict) else None
    least, most = HADAMARD.attribute("block_size").minimum or 1, HADAMARD.limits["max_block_size"]
    allowed = type(size) is int and least <= size <= most and size & (size - 1) == 0
    _require(allowed, f"{where}{ROTATION}.block_size", f"a power of two from {least} to {most}", size)


def _require(allowed: bool, key: str, expected: str, value: object) -> None:
    if not allowed:
        raise InputError(f"quantization_config.{key}: expected {expected}, got {shown(value)}")


def shown(value: object) -> str:
    """A value from a file, short enough for a message."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= 80 else f"{text[:77]}..."


def shown_name(name: object) -> str:
    """A name from a file, short enough for a message and on one line."""
    return shown(name).strip('"')
