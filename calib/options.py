"""The command line of a run, made from the configuration: one option for each of its fields.

    format, data       --planes, --group-size, --text, ...
    init, layer, ...   --init-windows, --layer-rounds, --block-epochs, --e2e-steps, ...

A value comes from the option, else from --config FILE, else from --preset NAME; without either, from the default preset
of --method. Without any of these the format is that of the checkpoint that --start names.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
from pydantic.fields import FieldInfo

from calib.config import START_TOKEN, CalibConfig, explain
from calib.layer_formats import override_text
from calib.presets import DEFAULTS, PRESETS, preset
from dualbinary import InputError
from dualbinary.checkpoint import CONFIG_FILE, read_quantization_config, scales_name, stored_tensors
from dualbinary.cli import options
from dualbinary.cli.options import Option
from dualbinary.errors import OptionError

__all__ = ["OPTIONS", "add_options", "config_from"]

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
METAVARS = {
    "embedding_bits": "N",
    "rotate": "BLOCK",
    "bits": "B",
    "measured": "FILE",
    "size": "SIZE",
    "text": "FILE",
    "skip": "PATTERN",
    "separator": "TEXT",
    "method": "NAME",
    "zero": "X",
    "override": "FORMAT",
}
KINDS = {
    "zero": str,
    "embedding_bits": int,
    "rotate": int,
    "bits": float,
    "size": str,
    "start_token": bool,
}  # where a command line reads another type than a file
BOUNDS = {"ge": "minimum", "le": "maximum", "gt": "above", "lt": "below"}  # names of pydantic's limits
FORM_OF_LAYERS = tuple(f"format.{key}" for key in ("method", "planes", "group_size", "offset", "levels", "zero"))
BUDGETS = ("format.bits", "format.size")
ESCAPES = {"\\n": "\n", "\\t": "\t", "\\f": "\f"}


def _options() -> dict[str, Option]:
    """All options by the path of their field: "seed", "format.planes"."""
    found = {}
    for section, title in GROUPS.items():
        model: Any = CalibConfig.model_fields[section].annotation if section else CalibConfig
        for key, field in model.model_fields.items():
            if key not in HIDDEN and key not in GROUPS:
                flag = "--" + (f"{section}-" if section in PREFIXED else "") + key.replace("_", "-")
                names = (flag, OTHER_NAMES[flag]) if flag in OTHER_NAMES else (flag,)
                found[f"{section}.{key}".lstrip(".")] = _option(key, field, names=names, group=title)
    return found


def _option(key: str, field: FieldInfo, **details: Any) -> Option:
    default, kind = field.default, KINDS.get(key, field.annotation)
    limits = {BOUNDS[name]: getattr(part, name) for part in field.metadata for name in BOUNDS if hasattr(part, name)}
    shown = None
    if default not in (None, ()) and not isinstance(default, bool):
        shown = f"fast: {','.join(default) if isinstance(default, tuple) else default}"
    metavar = METAVARS.get(key, None if kind in (int, float) else "PATH")
    # No default: the preset has it.
    return Option(field.description or key, None, shown, **limits, **details, metavar=metavar, nargs="+", kind=kind)


OPTIONS = _options()


def add_options(parser: argparse.ArgumentParser, *others: type) -> None:
    """Add --preset, --config, an option for each field of the configuration, and those of `others`."""
    base = parser.add_argument_group("configuration").add_mutually_exclusive_group()
    listing = "; ".join(f"{name}: {value.text}" for name, value in PRESETS.items())
    defaults = ", ".join(f"{name} for --method {method}" for method, name in DEFAULTS.items())
    base.add_argument("--preset", choices=PRESETS, help=f"values to begin with (default: {defaults}). {listing}")
    base.add_argument("--config", type=Path, metavar="FILE", help="configuration of another run: its calibration.json")
    options.add_options(parser, OPTIONS, *others)


def config_from(args: argparse.Namespace) -> CalibConfig:
    """The configuration that the parsed arguments ask for. Raises InputError."""
    given = {name: value for name, value in vars(args).items() if name in OPTIONS}
    found = {} if args.config or args.preset else _format_of_start(given, args.model_dir)
    name = args.preset or DEFAULTS[given.get("format.method", found.get("method", "fdb"))]
    config = CalibConfig.read(args.config) if args.config else preset(name)
    value = config.to_json()
    value["data"].setdefault(START_TOKEN, config.data.start_token)
    value["format"] |= found
    _drop_other_budgets(value["format"], given)
    if "data.generated" in given:
        value["data"]["generate"] = 0  # unless it is asked for as well, which is refused
    for name in given:
        section, _, key = name.rpartition(".")
        (value[section] if section else value)[key] = given[name]
    if given.get("start") and "stages" not in given:
        value["stages"] = [stage for stage in value["stages"] if stage != "init"]
    separator = value["data"]["separator"]
    for escape, character in ESCAPES.items() if separator else ():
        value["data"]["separator"] = separator = separator.replace(escape, character)
    try:
        return CalibConfig.model_validate_json(json.dumps(value))
    except pydantic.ValidationError as error:
        raise _option_error(error) from None


def _drop_other_budgets(form: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Without the budget of a preset where another one is given, or a format."""
    for name in ("bits", "size"):
        others = {*FORM_OF_LAYERS, *BUDGETS} - {f"format.{name}"}
        if f"format.{name}" not in given and others & given.keys():
            form.pop(name, None)


def _option_error(error: pydantic.ValidationError) -> InputError:
    """The first thing that is wrong, in words of its option where one field alone is."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if name not in OPTIONS:
        key, _, rest = first["msg"].removeprefix("Value error, ").partition(": expected ")
        wanted, _, got = rest.rpartition(", got ")
        together = f"{name}.{key}" in OPTIONS and wanted  # what is wrong with one field beside the others
        return OptionError(f"{name}.{key}", wanted, got) if together else InputError(explain(error))
    message = first["msg"].removeprefix("Value error, ")
    if message.startswith("--"):  # says itself which one of several values is wrong
        return InputError(message)
    expected = message.removeprefix("expected ")
    return OptionError(name, OPTIONS[name].limits or expected, first["input"])


def _format_of_start(given: Mapping[str, Any], model_dir: Path) -> dict[str, Any]:
    """The format of the layers of the checkpoint that --start names, unless some of a format is given."""
    start = given.get("start")
    own = [name for name in given if name.startswith("format.") and name != "format.embedding_bits"]
    if start is None or own or not (Path(start) / CONFIG_FILE).is_file():
        return {}
    stored = read_quantization_config(Path(start))
    if stored is None:
        raise InputError(f"--start {start}: holds a full-precision model; expected a checkpoint of calibration")
    form = stored.plane_format
    found: dict[str, Any] = {"method": "qbb" if stored.method == "qbb" else "fdb", "planes": form.planes}
    found |= {"group_size": form.group_size, "offset": form.offset}
    if form.even:
        found |= {"levels": form.levels} if form.offset else {"levels": form.levels, "zero": form.zero}
    from calib.models.source import empty_model  # late: --help and wrong options do without torch
    from calib.models.tables import table_names

    tables = table_names(empty_model(model_dir)) if stored.overrides else set()
    if _has_codes(Path(start), tables):
        found["scale_type"] = "uint8"  # scales of other types become those of the run
    layers = [module for module in stored.overrides if module not in tables]
    blocks = [block for module in (*layers, "") if (block := stored.block_size_of(module)) is not None]
    found |= {"rotate": max(blocks)} if blocks else {}
    texts = [override_text(module, stored.format_of(module), form) for module in layers]
    return {**found, "override": [text for text in texts if text]} if any(texts) else found


def _has_codes(directory: Path, tables: set[str]) -> bool:
    """Say that the scales of layers have 8 bits: tensors themselves say their types."""
    others = {scales_name(table) for table in tables}
    if not any(directory.glob("*.safetensors")):  # which the run refuses, in better words
        return False
    kinds = {
        tensor.dtype
        for name, tensor in stored_tensors(directory).items()
        if name.endswith(scales_name("")) and name not in others
    }
    return kinds == {"U8"}
