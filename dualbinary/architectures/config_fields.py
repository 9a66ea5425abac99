"""What the export does with every field of config.json, read from config_fields.toml.

A type whose export tests compare with transformers has a table there. Its fields are honored, refused by value, or
without effect; the file says what the three words mean. Types without a table are built as the graph builder reads
their config.json.
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dualbinary import InputError

__all__ = [
    "FieldTable",
    "built_values",
    "common_table",
    "field_table",
    "model_types",
    "refuse_common_values",
    "refuse_values",
    "rope_table",
    "shared_values",
]

_FILE = Path(__file__).with_name("config_fields.toml")
_GROUPS = ("values", "every", "rope")  # tables that are not those of a model type
_ROPE_KEYS = ("rope_parameters", "rope_scaling")  # where transformers 5 and 4 write how positions are rotated
_TASK = "architectures"  # held against transformers' own lists where the configuration is read
_LENGTH_TYPE = "dynamic"  # a rotation that changes beyond the context, which the builder does not know


@dataclass(frozen=True)
class FieldTable:
    """The fields of one configuration class.

    Attributes:
        honored: fields of which the graph honors every value.
        only: refused by value: the values that pass, or the name of the field that the value must equal.
        unread: fields without effect.
    """

    honored: tuple[str, ...]
    only: dict[str, tuple[Any, ...] | str]
    unread: tuple[str, ...]

    @property
    def names(self) -> frozenset[str]:
        """All fields."""
        return frozenset((*self.honored, *self.only, *self.unread))

    @property
    def built(self) -> tuple[str, ...]:
        """The fields that the graph depends on."""
        return (*self.honored, *self.only)


def field_table(model_type: str) -> FieldTable | None:
    """The fields of the configuration class of `model_type` itself; None for a type that has no table."""
    file = _read()
    return None if model_type in _GROUPS or model_type not in file else _table(file[model_type])


def model_types() -> tuple[str, ...]:
    """The types that have a table."""
    return tuple(name for name in _read() if name not in _GROUPS)


def common_table() -> FieldTable:
    """The fields of every configuration class."""
    return _table(_read()["every"])


def rope_table() -> FieldTable:
    """The fields of rope_parameters, the same for every type."""
    return _table(_read()["rope"])


def shared_values(name: str) -> tuple[Any, ...]:
    """The list of passing values of this name, which several types share."""
    return tuple(_read()["values"][name])


def refuse_common_values(model_type: str, raw: dict[str, Any]) -> None:
    """Raise InputError where config.json as it is has a value that no graph would honor, whatever the type."""
    table = field_table(model_type)
    for name, passing in common_table().only.items():
        if name in raw and name != _TASK and (table is None or name not in table.names):
            _refuse(name, raw[name], passing, model_type)
    for key in _ROPE_KEYS if table is None else ():
        rope = raw.get(key)
        for parameters in _each_rotation(rope) if isinstance(rope, dict) else ():
            if _LENGTH_TYPE in (parameters.get("rope_type"), parameters.get("type")):
                raise InputError(
                    f"config.json: {key} of type {_LENGTH_TYPE!r} cannot be exported for {model_type}; leave it out, "
                    "which changes nothing within the context"
                )


def built_values(model_type: str, read: Any) -> dict[str, Any] | None:
    """The fields that a graph depends on, by name, of transformers' configuration object `read`; None without a table.

    Raises InputError for values that the graph would not honor.
    """
    table = field_table(model_type)
    if table is None:
        return None
    table = field_table(read.model_type) or table  # a Mistral with layer types is read as a Ministral
    stored = read.to_dict()
    # A field that the class keeps under another name is an attribute alone.
    values = {name: _value(stored, read, name) for name in table.built if name in stored or hasattr(read, name)}
    refuse_values(read.model_type, values)
    return values


def refuse_values(model_type: str, values: dict[str, Any]) -> None:
    """Raise InputError where `values`, the fields of the type's class as transformers reads them, has another one."""
    table = field_table(model_type)
    for name, passing in table.only.items() if table is not None else ():
        if name in values:
            _refuse(name, values[name], (values[passing],) if isinstance(passing, str) else passing, model_type)
    for parameters in _each_rotation(values.get("rope_parameters") or {}):
        kind = parameters.get("rope_type", "default")
        _refuse("rope_parameters.rope_type", kind, rope_table().only["rope_type"], model_type)


def _value(stored: dict[str, Any], read: Any, name: str) -> Any:
    """The value of a field; an attribute alone says nothing where layers differ."""
    return stored[name] if name in stored else getattr(read, name)


def _each_rotation(rope: dict[str, Any]) -> list[dict[str, Any]]:
    """The parameters of one rotation for all layers, or of one for each type of layers."""
    return [value for value in rope.values() if isinstance(value, dict)] or [rope]


def _refuse(name: str, value: Any, passing: tuple[Any, ...] | str, model_type: str) -> None:
    nothing = not value and not all(passing)  # None, false and an empty list all turn a switch off
    if nothing or value in passing or (not passing and not value):
        return
    allowed = " or ".join(map(repr, passing)) if passing else "no value"
    raise InputError(f"config.json: {name}={value!r} is not supported for {model_type}; only {allowed} is")


def _table(raw: dict[str, Any]) -> FieldTable:
    shared = _read()["values"]

    def passing(value: Any) -> tuple[Any, ...] | str:
        if isinstance(value, str):
            return tuple(shared[value]) if value in shared else value
        return tuple(value)

    only = {name: passing(value) for name, value in raw.get("only", {}).items()}
    return FieldTable(tuple(raw.get("honored", "").split()), only, tuple(raw.get("unread", "").split()))


@cache
def _read() -> dict[str, Any]:
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))
