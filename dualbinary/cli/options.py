"""Command lines made from options types: each option is declared once, as a field with its help and limits.

    @dataclass(frozen=True)
    class BenchOptions:
        tokens: int = option(64, help="tokens to decode", minimum=1)

    add_options(parser, BenchOptions)                 # --tokens N    tokens to decode (at least 1; default 64)
    options_from(parser.parse_args(), BenchOptions)   # BenchOptions(tokens=64)

A wrong value is an OptionError, which speaks of fields; `dualbinary.cli.console.run` prints it with flags. A type that
is part of a library's interface raises it by itself: its __post_init__ calls check_options.
"""

import argparse
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dualbinary.errors import OptionError, with_names

__all__ = ["Option", "add_options", "check_options", "option", "options_from", "options_of"]

T = TypeVar("T")

METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
LIMITS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "minimum": ("at least", operator.ge),
    "above": ("above", operator.gt),
    "maximum": ("at most", operator.le),
    "below": ("below", operator.lt),
    "multiple": ("a positive multiple of", lambda value, unit: value > 0 and value % unit == 0),
}


@dataclass(frozen=True)
class Option:
    """One option: what it means, what it may be, and how a command line spells it.

    help: a phrase, without limits and default, which are added; {name} stands for another option.
    default: the value where none is given; MISSING for an option that must be given.
    shown: words for the default in the help, where the value alone does not tell.
    choices, minimum, maximum (inclusive), above, below (exclusive), multiple (and positive): limits of the value.
    names: flags in place of the one that is made from the field's name.
    old_names: flags that are read and not shown, of an option with a default.
    group: title over this option and those that follow in its type; {name} stands for an option.
    nargs: of a tuple, values after each flag; one where None.
    kind: type of the value: bool, int, float, str, Path, a Literal, a tuple of these, or such a type or None; or a
        number or a Literal, whose words are outside the limits. A tuple of a Literal is written with commas.
    """

    help: str
    default: Any = MISSING
    shown: str | None = None
    choices: tuple[Any, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    multiple: int | None = None
    metavar: str | None = None
    names: tuple[str, ...] = ()
    old_names: tuple[str, ...] = ()
    group: str | None = None
    nargs: str | None = None
    kind: Any = str

    @property
    def limits(self) -> str:
        """The values that are allowed, in words; empty where all are."""
        if self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        if self.minimum is not None and self.maximum is not None:
            numbers = f"{self.minimum} to {self.maximum}"
        else:
            numbers = " and ".join(f"{word} {bound}" for word, _, bound in self._limits())
        return " or ".join([*self.words, numbers])

    @property
    def words(self) -> tuple[str, ...]:
        """Words that a number may be instead."""
        parts = get_args(self.kind) if isinstance(self.kind, UnionType) or get_origin(self.kind) is Union else ()
        literals = [part for part in parts if get_origin(part) is Literal]
        return get_args(literals[0]) if literals and len(parts) > len(literals) + (NoneType in parts) else ()

    def allows(self, value: Any) -> bool:
        """Say whether `value` is within the limits, as a default of None is, and a number that is not finite never."""
        if (value is None and self.default is None) or value in self.words:
            return True
        if self.words and not isinstance(value, (int, float)):
            return False
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if self.choices and value not in self.choices:
            return False
        return all(holds(value, bound) for _, holds, bound in self._limits())

    def _limits(self) -> list[tuple[str, Callable[[Any, Any], bool], float]]:
        limits = [(*LIMITS[name], getattr(self, name)) for name in LIMITS]
        return [each for each in limits if each[-1] is not None]


def option(default: Any = MISSING, *, help: str, **details: Any) -> Any:
    """A field of an options type; the arguments are those of Option, without `kind`, which is the field's type."""
    return field(default=default, metadata={"option": Option(help, default, **details)})


@cache
def options_of(options_type: type) -> Mapping[str, Option]:
    """The options of a dataclass by field. Fields that are no options are left out."""
    kinds, options, group = get_type_hints(options_type), {}, None
    for each in fields(options_type):
        if declared := each.metadata.get("option"):
            group = declared.group or group
            options[each.name] = replace(declared, kind=kinds[each.name], group=group)
    return options


def check_options(value: Any) -> None:
    """Raise OptionError for the first field of an options type that is not within its limits."""
    for name, each in options_of(type(value)).items():
        if not each.allows(given := getattr(value, name)):
            raise OptionError(name, each.limits, given)


def add_options(parser: argparse.ArgumentParser, *sources: type | Mapping[str, Option]) -> None:
    """Add the options of options types, or options by name, all those of a parser in one call.

    An option that is not given is absent from the parsed arguments.
    """
    options: dict[str, Option] = {}
    groups: dict[str | None, Any] = {None: parser}
    for source in sources:
        options |= source if isinstance(source, Mapping) else options_of(source)
    names = {name: each.names or (f"--{name.replace('_', '-')}",) for name, each in options.items()}
    flags = {name: spellings[0] for name, spellings in names.items()}
    for name, each in options.items():
        if each.group not in groups:
            groups[each.group] = parser.add_argument_group(with_names(each.group or "", flags))
        details = {"dest": name, "default": argparse.SUPPRESS, **_reading(each)}
        text = with_names(_help(flags[name], each), flags).replace("%", "%%")
        groups[each.group].add_argument(*names[name], required=each.default is MISSING, help=text, **details)
        if each.old_names:
            parser.add_argument(*each.old_names, help=argparse.SUPPRESS, **details)
    parser.set_defaults(flags=flags)  # where console.run finds the words for an OptionError


def options_from(args: argparse.Namespace, options_type: type[T]) -> T:
    """The value of an options type that `add_options` added. Raises OptionError for one that is not within limits."""
    given = {name: getattr(args, name) for name in options_of(options_type) if hasattr(args, name)}
    value = options_type(**{name: tuple(each) if isinstance(each, list) else each for name, each in given.items()})
    check_options(value)
    return value


def _help(flag: str, each: Option) -> str:
    default, shown = each.default, each.shown
    if shown is None and not any(default is nothing for nothing in (MISSING, None, False, ())):
        shown = f"default {flag if default is True else f'{default:g}' if isinstance(default, float) else default}"
    facts = [fact for fact in ("" if each.choices else each.limits, shown) if fact]
    return each.help + (f" ({'; '.join(facts)})" if facts else "")


def _reading(each: Option) -> dict[str, Any]:
    """The arguments of argparse for reading a value of the option's kind."""
    kind = each.kind
    if each.words:
        return {"type": _number_or(each.words, get_args(kind)[0]), "metavar": each.metavar}
    if isinstance(kind, UnionType):
        kind = next(part for part in get_args(kind) if part is not NoneType)
    if kind is bool:
        return {"action": "store_true" if each.default is False else argparse.BooleanOptionalAction}
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
        if get_origin(kind) is Literal:
            return {"type": lambda text: text.split(","), "metavar": f"{{{','.join(get_args(kind))}}}"}
        several = {"action": "extend", "nargs": each.nargs} if each.nargs else {"action": "append"}
        return {"type": kind, "metavar": each.metavar or METAVARS[kind], **several}
    if each.choices:
        return {"type": kind, "choices": each.choices}
    return {"type": kind, "metavar": each.metavar or METAVARS[kind]}


def _number_or(words: tuple[str, ...], number: type[Any]) -> Callable[[str], Any]:
    """A reader of a number or one of some words."""

    def read(text: str) -> Any:
        return text if text in words else number(text)

    read.__name__ = f"{' or '.join(words)} or {number.__name__}"  # argparse's "invalid ... value"
    return read
