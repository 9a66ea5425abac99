"""The block "quantization_config" of a checkpoint's config.json."""

import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from dualbinary.contract.schema import OP
from dualbinary.contract.weight import PER_CHANNEL, PlaneFormat
from dualbinary.errors import InputError

QUANT_METHOD = "dualbinary"
VERSIONS = (1, 2)  # that are read; a checkpoint is written in the oldest that can say what it holds
FORMAT_VERSION = VERSIONS[-1]
METHODS = ("fdb", "fit", "qbb")  # who chose the planes; the stored form means the same for all


@dataclass(frozen=True)
class QuantizationConfig:
    """The block "quantization_config" of config.json. Construction raises InputError where a value is not allowed.

    Attributes:
        method: one of METHODS.
        planes: P.
        group_size: G, a multiple of 32, or PER_CHANNEL.
        has_offset: whether scales have P+1 rows.
        modules_to_not_convert: full names of the Linear modules that keep their weight.
    """

    method: str
    planes: int
    group_size: int
    has_offset: bool
    modules_to_not_convert: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = self.modules_to_not_convert
        _require(self.method in METHODS, "method", f"one of {', '.join(METHODS)}", self.method)
        _require(type(self.has_offset) is bool, "has_offset", "true or false", self.has_offset)
        try:
            _ = self.plane_format
        except InputError as error:
            expected = str(error).rpartition(", got ")[0]
            value = getattr(self, expected.partition(":")[0])
            raise InputError(f"quantization_config.{expected}, got {shown(value)}") from None
        _require(
            isinstance(names, tuple) and all(isinstance(name, str) and name for name in names),
            "modules_to_not_convert",
            "a list of module names",
            names,
        )

    @cached_property
    def plane_format(self) -> PlaneFormat:
        """The form of all quantized modules, in layout plain; a module says the type of its scales itself."""
        symmetric = self.method == "qbb" and self.has_offset
        return PlaneFormat(self.planes, self.group_size, self.has_offset, levels="symmetric" if symmetric else "free")

    @property
    def format_version(self) -> int:
        """The oldest version that can say this."""
        return 2 if self.group_size == PER_CHANNEL else 1

    def to_dict(self) -> dict[str, Any]:
        """The block as it is written to config.json."""
        block = asdict(self)
        block["modules_to_not_convert"] = list(self.modules_to_not_convert)
        return {"quant_method": QUANT_METHOD, "format_version": self.format_version, **block}

    @classmethod
    def from_dict(cls, block: object) -> "QuantizationConfig":
        """Read a block that came from a file. Raises InputError, naming the key, for whatever is not exactly right."""
        if not isinstance(block, dict):
            raise InputError(f"quantization_config: expected an object, got {shown(block)}")
        method = block.get("quant_method")
        _require(method == QUANT_METHOD, "quant_method", f'"{QUANT_METHOD}"', method)
        version = block.get("format_version")
        if type(version) is int and version > FORMAT_VERSION:
            raise InputError(
                f"quantization_config.format_version: {version} is newer than {FORMAT_VERSION}, the newest that this "
                "release reads; upgrade dualbinary"
            )
        _require(version in VERSIONS and type(version) is int, "format_version", "1 or 2", version)
        values = {key: value for key, value in block.items() if key not in ("quant_method", "format_version")}
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise InputError(f"quantization_config.{key}: unknown key; expected {', '.join(known)}")
        for key in known:
            if key not in values:
                raise InputError(f"quantization_config.{key}: missing; expected in format_version {version}")
        names = values["modules_to_not_convert"]
        _require(isinstance(names, list), "modules_to_not_convert", "a list of module names", names)
        config = cls(**{**values, "modules_to_not_convert": tuple(names)})
        _require(
            version != 1 or config.format_version == 1,
            "group_size",
            f"a positive multiple of {OP.limits['group_multiple']} in format_version {version}",
            config.group_size,
        )
        return config


def _require(allowed: bool, key: str, expected: str, value: object) -> None:
    if not allowed:
        raise InputError(f"quantization_config.{key}: expected {expected}, got {shown(value)}")


def shown(value: object) -> str:
    """A value from a file, short enough for a message."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= 80 else f"{text[:77]}..."
