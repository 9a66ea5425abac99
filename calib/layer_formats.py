"""The format of every layer: a default, and overrides by the names of modules.

    --override '*.down_proj:planes=3,group_size=32' 'model.layers.0.*:levels=even,offset=false,planes=8'

PATTERN is the name of a module or a pattern such as those of --skip. All overrides that match a module count, in order,
and each changes the values that it names. A zero point belongs to the planes, levels and offset that it was given for:
an override that changes one of these and names no zero takes the middle of the new levels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from dualbinary import OP, InputError, padded_k
from dualbinary.contract.scale_codes import BFLOAT16, dtype_name
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat

__all__ = [
    "FREE_PLANES",
    "SCALE_TYPES",
    "LayerFormats",
    "Override",
    "checked_format",
    "middle",
    "override_text",
]

FREE_PLANES = 4  # at most, where every plane has scales: the quantizer sorts their 2^P levels
SCALE_TYPES = {
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "bfloat16": BFLOAT16,
    "uint8": np.dtype(np.uint8),  # codes, rounded to when a checkpoint is written
}
SHOWN_NAMES = 3  # modules in the message about a pattern that matches none


def checked_format(form: PlaneFormat) -> PlaneFormat:
    """The format itself. Raises InputError, naming the field, where calibration does not train such a one."""
    if not form.even and form.planes > FREE_PLANES:
        raise InputError(f"planes: expected 1 to {FREE_PLANES} with {form.levels} levels, got {form.planes}")
    return form


def middle(levels: str, planes: int, offset: bool) -> float:
    """The zero point where none is given: the middle of even levels without an offset."""
    return ((1 << planes) - 1) / 2 if levels == "even" and not offset else 0.0


def _truth(text: str) -> bool:
    return {"true": True, "false": False}[text]


def _scale_type(text: str) -> np.dtype[Any]:
    return SCALE_TYPES[text]


def _zero(text: str) -> float | str:
    return text if text == EACH_GROUP else float(text)


# The fields of an override: what reads them, and what is expected.
FIELDS: dict[str, tuple[Callable[[str], Any], str]] = {
    "planes": (int, "a number"),
    "group_size": (int, "a number"),
    "offset": (_truth, "true or false"),
    "levels": (str, "free or even"),
    "zero": (_zero, f"a number, or {EACH_GROUP}"),
    "scale_type": (_scale_type, f"one of {', '.join(SCALE_TYPES)}"),
}


@dataclass(frozen=True)
class Override:
    """What the modules that `pattern` matches have in place of the default; `text` is how it was given."""

    text: str
    pattern: str
    values: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> "Override":
        """Read 'PATTERN:field=value,...'. Raises InputError for anything else."""
        pattern, colon, listed = text.rpartition(":")
        if not (colon and pattern and listed):
            raise InputError(f"--override {text}: expected PATTERN:field=value,... with fields {', '.join(FIELDS)}")
        values: dict[str, Any] = {}
        for entry in listed.split(","):
            field, equals, value = entry.partition("=")
            if not equals or field not in FIELDS:
                raise InputError(
                    f"--override {text}: expected field=value with one of {', '.join(FIELDS)}, got {entry!r}"
                )
            if field in values:
                raise InputError(f"--override {text}: {field} is given twice; expected one value")
            read, expected = FIELDS[field]
            try:
                values[field] = read(value)
            except (ValueError, KeyError):
                raise InputError(f"--override {text}: {field}: expected {expected}, got {value!r}") from None
        if values.get("levels", "free") not in ("free", "even"):
            raise InputError(f"--override {text}: levels: expected free or even, got {values['levels']!r}")
        return cls(text, pattern, values)

    def matches(self, module: str) -> bool:
        """Say that the override is about `module`."""
        return fnmatchcase(module, self.pattern)

    def applied(self, form: PlaneFormat) -> PlaneFormat:
        """`form` with the values of this override. Raises InputError where they contradict one another or it."""
        values = {"scale_dtype" if field == "scale_type" else field: value for field, value in self.values.items()}
        if form.symmetric and "levels" in values:
            raise InputError("levels: expected none with --method qbb, whose bases are -1 and 1")
        if "zero" not in values and {"planes", "levels", "offset"} & values.keys():
            levels, planes, offset = (values.get(key, getattr(form, key)) for key in ("levels", "planes", "offset"))
            values["zero"] = middle(levels, planes, offset)
        return checked_format(replace(form, **values))


@dataclass(frozen=True)
class LayerFormats:
    """The format of a layer by its name."""

    default: PlaneFormat
    overrides: tuple[Override, ...] = ()

    def of(self, module: str) -> PlaneFormat:
        """The format of `module`. Raises InputError, naming override and module, where there is no such one."""
        form = self.default
        for override in self.overrides:
            if override.matches(module):
                try:
                    form = override.applied(form)
                except InputError as error:
                    raise InputError(f"--override {override.text}: {module}: {error}") from None
        return form

    def check(self, modules: Mapping[str, int]) -> None:
        """Raise InputError where an override matches none of `modules`, or what it says of one cannot be.

        `modules` are those that are quantized, with their inputs.
        """
        for override in self.overrides:
            if not any(map(override.matches, modules)):
                some = ", ".join(list(modules)[:SHOWN_NAMES])
                raise InputError(
                    f"--override {override.text}: matches no module that is quantized; some are called {some}"
                )
            for module, inputs in modules.items():
                size, longest = self.of(module).group_size, padded_k(inputs, OP.limits["group_multiple"])
                if override.matches(module) and size > longest:
                    raise InputError(
                        f"--override {override.text}: {module}: group_size: expected at most {longest} for "
                        f"{inputs} inputs, got {size}"
                    )


def override_text(module: str, form: PlaneFormat, default: PlaneFormat) -> str | None:
    """The override that gives `module`, whose default is `default`, the format `form`; None where they are one."""
    differing = [field for field in FIELDS if _value(form, field) != _value(default, field)]
    if form.even and differing and "zero" not in differing and not form.offset:
        differing.append("zero")
    return f"{module}:{','.join(f'{field}={_value(form, field)}' for field in differing)}" if differing else None


def _value(form: PlaneFormat, field: str) -> str:
    """The text of a field of an override."""
    if field == "scale_type":
        return dtype_name(form.scale_dtype)
    value = getattr(form, field)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
