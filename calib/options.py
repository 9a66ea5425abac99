"""The command line of a run, made from the configuration: one option for each of its fields.

    format, data       --planes, --group-size, --text, ...
    init, layer, ...   --init-windows, --layer-rounds, --block-epochs, --e2e-steps, ...

A value comes from the option, else from --config FILE, else from --preset NAME; without either, from the default preset
of --method. Where none of them says a format of layers, or but a budget, it is that of the checkpoint that --start
names.
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
from calib.weight_init import WEIGHT_INITS
from dualbinary import InputError
from dualbinary.checkpoint import CONFIG_FILE, read_quantization_config, scales_name, stored_tensors
from dualbinary.cli import options
from dualbinary.cli.options import Option
from dualbinary.errors import OptionError
from dualbinary.files.json_objects import read_json_object

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
METHOD = "format.method"
FORM_OF_LAYERS = (METHOD, *(f"format.{key}" for key in ("planes", "group_size", "offset", "levels", "zero")))
BUDGETS = ("format.bits", "format.size")
BUDGET_SCALES = "uint8"  # of all formats that a budget chooses among
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
                shown = _shown_default(section, key, field)
                found[f"{section}.{key}".lstrip(".")] = _option(key, field, shown, names=names, group=title)
    return found


def _shown_default(section: str, key: str, field: FieldInfo) -> str | None:
    """Words for the default: the value of preset fast, or without a budget that of the formats which it decides."""
    name = f"{section}.{key}"
    decided = name in (*FORM_OF_LAYERS[1:], "format.scale_type")
    fast = preset(DEFAULTS["fdb"])
    default = field.default if decided else getattr(getattr(fast, section) if section else fast, key)
    if default in (None, ()) or isinstance(default, bool):
        return None
    where = "without a budget" if decided else "fast"
    return f"{where}: {','.join(default) if isinstance(default, tuple) else default}"


def _option(key: str, field: FieldInfo, shown: str | None, **details: Any) -> Option:
    kind = KINDS.get(key, field.annotation)
    limits = {BOUNDS[name]: getattr(part, name) for part in field.metadata for name in BOUNDS if hasattr(part, name)}
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
    base = CalibConfig.read(args.config) if args.config else preset(args.preset) if args.preset else None
    found = _format_of_start(given, args.model_dir) if base is None or base.format.has_budget else {}
    config = base or preset(DEFAULTS[given.get("format.method", found.get("method", "fdb"))])
    value = config.to_json()
    value["data"].setdefault(START_TOKEN, config.data.start_token)
    value["format"] |= found
    if args.config and given.keys() & {*FORM_OF_LAYERS, *BUDGETS}:
        _forget_choice(value["format"], args.config)
    _settle_budget(value["format"], given, of_preset=not args.config)
    if "data.generated" in given:
        value["data"]["generate"] = 0  # unless it is asked for as well, which is refused
    for name in given:
        section, _, key = name.rpartition(".")
        (value[section] if section else value)[key] = given[name]
    if given.get("start") and "stages" not in given:
        value["stages"] = [stage for stage in value["stages"] if stage != "init"]
        if not value["stages"]:
            raise InputError("--start: takes the place of the only stage, init; add --stages e2e, or block,e2e")
    separator = value["data"]["separator"]
    for escape, character in ESCAPES.items() if separator else ():
        value["data"]["separator"] = separator = separator.replace(escape, character)
    try:
        return CalibConfig.model_validate_json(json.dumps(value))
    except pydantic.ValidationError as error:
        raise _option_error(error) from None


def _settle_budget(form: dict[str, Any], given: Mapping[str, Any], *, of_preset: bool) -> None:
    """Remove a budget that nobody gave where something that is given takes its place.

    That is another budget, a format, a checkpoint to start from, and where the budget is `of_preset` scales of another
    type and an initialization that knows no even levels or asks for no text. Raises InputError for a format beside a
    budget that is given, and for scales that the budget which remains does not have.
    """
    row = WEIGHT_INITS.get(given.get("init.method", "error-feedback"))
    unfit = row is not None and not (row.needs_inputs and "even" in row.methods)
    unfit |= given.get("format.scale_type", BUDGET_SCALES) != BUDGET_SCALES
    decides = given.keys() & {*FORM_OF_LAYERS, *BUDGETS, "start"}
    beside = [_as_typed(name, given[name]) for name in FORM_OF_LAYERS if name in given and name != METHOD]
    for name in BUDGETS:
        if name in given and beside:
            raise InputError(
                f"{OPTIONS[name].names[0]} decides the format of every layer; leave out {', '.join(beside)}"
            )
    if given.get(METHOD) == "fdb":  # which a budget is of
        decides -= {METHOD}
    for name in ("bits", "size"):
        if f"format.{name}" not in given and (decides or (of_preset and unfit)):
            form.pop(name, None)
    scales = given.get("format.scale_type", form.get("scale_type", BUDGET_SCALES))
    for name in BUDGETS:
        if scales != BUDGET_SCALES and (name in given or name.removeprefix("format.") in form):
            raise OptionError("format.scale_type", f"{BUDGET_SCALES} with {{{name}}}", scales, "leave it out")


def _as_typed(name: str, value: object) -> str:
    """The flag that gives an option this value."""
    flag = OPTIONS[name].names[0]
    return flag.replace("--", "--no-", 1) if value is False else flag


def _forget_choice(form: dict[str, Any], record: Path) -> None:
    """Remove the formats that a budget chose, as the `record` of its run says them, and the default among them."""
    units = read_json_object(record).get("budget", {}).get("units", [])
    chosen = {module for unit in units for module in unit["modules"]}
    if chosen:
        form["override"] = [text for text in form.get("override", []) if text.partition(":")[0] not in chosen]
        for key in ("planes", "group_size", "offset", "levels", "zero", "scale_type"):
            form.pop(key, None)


def _option_error(error: pydantic.ValidationError) -> InputError:
    """The first thing that is wrong, in words of its option where one field alone is."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if name not in OPTIONS:
        key, _, rest = first["msg"].removeprefix("Value error, ").partition(": expected ")
        wanted, _, got = rest.rpartition(", got ")
        option = f"{name}.{key}".lstrip(".")  # of the whole configuration there is no name
        together = option in OPTIONS and wanted  # what is wrong with one field beside the others
        return OptionError(option, wanted, got) if together else InputError(explain(error))
    message = first["msg"].removeprefix("Value error, ")
    if message.startswith("--"):  # says itself which one of several values is wrong
        return InputError(message)
    expected = message.removeprefix("expected ")
    return OptionError(name, OPTIONS[name].limits or expected, first["input"])


def _format_of_start(given: Mapping[str, Any], model_dir: Path) -> dict[str, Any]:
    """The format of the layers of the checkpoint that --start names, unless some of a format is given."""
    start, beside = given.get("start"), ("format.embedding_bits", "format.scale_type", "format.method")
    own = [name for name in given if name.startswith("format.") and name not in beside]
    if start is None or own or not (Path(start) / CONFIG_FILE).is_file():
        return {}
    stored = read_quantization_config(Path(start))
    if stored is None:
        raise InputError(f"--start {start}: holds a full-precision model; expected a checkpoint of calibration")
    form, method = stored.plane_format, "qbb" if stored.method == "qbb" else "fdb"
    if given.get("format.method", method) != method:
        return {}
    found: dict[str, Any] = {"method": method, "planes": form.planes}
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
