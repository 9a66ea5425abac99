"""The command line of a run, made from the configuration: one option for each of its fields.

    format, data       --planes, --group-size, --text, ...
    init, layer, ...   --init-windows, --layer-rounds, --block-epochs, --e2e-steps, ...

A value comes from the option, else from --config FILE, else from --preset NAME; without either, from the default preset
of --method. Without any of these the format is that of the checkpoint that --start names.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from calib.config import STAGES, CalibConfig
from calib.presets import DEFAULTS, PRESETS, preset
from dualbinary import InputError
from dualbinary.checkpoint import CONFIG_FILE, read_quantization_config

__all__ = ["add_options", "config_from"]

GROUPS = {
    "": "run",
    "format": "format of the weights",
    "data": "text",
    "init": "stage init: planes and scales to begin with",
    "layer": "stage layer: QBB's bases of one layer after another",
    "block": "stage block: reconstruction of one block after another",
    "e2e": "stage e2e: distillation of the whole model",
}
PREFIXED = ("init", "layer", "block", "e2e")
OTHER_NAMES = {"--planes": "--bases", "--targets": "--from"}  # the words of QBB, and of people
HIDDEN = ("version",)
SEPARATOR = "."  # between section and key in the names of parsed arguments
ESCAPES = {"\\n": "\n", "\\t": "\t", "\\f": "\f"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --preset, --config and an option for each field of the configuration."""
    base = parser.add_argument_group("configuration").add_mutually_exclusive_group()
    listing = "; ".join(f"{name}: {value.text}" for name, value in PRESETS.items())
    defaults = ", ".join(f"{name} for --method {method}" for method, name in DEFAULTS.items())
    base.add_argument("--preset", choices=PRESETS, help=f"values to begin with (default: {defaults}). {listing}")
    base.add_argument(
        "--config", type=Path, metavar="FILE", help="the configuration of another run: its calibration.json"
    )
    for section, title in GROUPS.items():
        group = parser.add_argument_group(title)
        model = CalibConfig if not section else _section(section)
        for key, field in model.model_fields.items():
            if key not in HIDDEN and key not in GROUPS:
                _add_field(group, section, key, field)


def config_from(args: argparse.Namespace) -> CalibConfig:
    """The configuration that the parsed arguments ask for. Raises InputError, naming the option."""
    given = vars(args)
    found = {} if args.config or args.preset else _format_of_start(given)
    name = args.preset or DEFAULTS[given.get("format.method", found.get("method", "fdb"))]
    config = CalibConfig.read(args.config) if args.config else preset(name)
    value = config.to_json()
    value["format"] |= found
    if "data.generated" in given:
        value["data"]["generate"] = 0  # unless it is asked for as well, which is refused
    for name in given:
        section, dot, key = name.partition(SEPARATOR)
        if dot:
            (value[section] if section else value)[key] = given[name]
    if given.get(".start") and ".stages" not in given:
        value["stages"] = [stage for stage in value["stages"] if stage != "init"]
    separator = value["data"]["separator"]
    for escape, character in ESCAPES.items() if separator else ():
        value["data"]["separator"] = separator = separator.replace(escape, character)
    return CalibConfig.from_json(value, "options")


def _format_of_start(given: Mapping[str, Any]) -> dict[str, Any]:
    """The format of the checkpoint that --start names, unless some of a format is given."""
    start = given.get(".start")
    if start is None or any(name.startswith("format.") for name in given) or not (Path(start) / CONFIG_FILE).is_file():
        return {}
    stored = read_quantization_config(Path(start))
    if stored is None:
        raise InputError(f"--start {start}: holds a full-precision model; expected a checkpoint of calibration")
    method = "qbb" if stored.method == "qbb" else "fdb"
    sizes = {"planes": stored.planes, "group_size": stored.group_size}
    return {"method": method, **sizes, "offset": stored.has_offset}


def _section(name: str) -> type[BaseModel]:
    annotation = CalibConfig.model_fields[name].annotation
    assert isinstance(annotation, type)
    assert issubclass(annotation, BaseModel)
    return annotation


def _add_field(group: argparse._ArgumentGroup, section: str, key: str, field: FieldInfo) -> None:
    flag = "--" + (f"{section}-" if section in PREFIXED else "") + key.replace("_", "-")
    default = field.default
    shown = ",".join(default) if isinstance(default, tuple) else default
    text = field.description or key
    if default not in (None, ()) and not isinstance(default, bool):
        text += f" (fast: {shown})"
    options: dict[str, Any] = {"dest": section + SEPARATOR + key, "default": argparse.SUPPRESS, "help": text}
    names = [flag, OTHER_NAMES[flag]] if flag in OTHER_NAMES else [flag]
    group.add_argument(*names, **options, **_kind(key, field.annotation))


def _kind(key: str, annotation: Any) -> dict[str, Any]:
    """How argparse reads a value of this type."""
    if key == "stages":
        return {"type": lambda text: text.split(","), "metavar": f"{{{','.join(STAGES)}}}"}
    if get_origin(annotation) is tuple:
        return {"nargs": "+", "action": "extend", "metavar": "FILE" if key == "text" else "PATTERN"}
    if get_origin(annotation) is Literal:
        return {"choices": get_args(annotation)}
    if isinstance(annotation, UnionType):
        return {"metavar": "TEXT" if key == "separator" else "PATH"}
    if annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    return {"type": annotation, "metavar": {int: "N", float: "X"}.get(annotation, "NAME")}
