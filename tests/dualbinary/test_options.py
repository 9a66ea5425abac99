"""Options types and the command lines that are made from them, those of the project included."""

import argparse
import re
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from calib.__main__ import CommandOptions as CalibCommandOptions
from calib.__main__ import parser as calib_parser
from calib.options import OPTIONS as CALIB_OPTIONS
from dualbinary import InputError
from dualbinary.cli import console
from dualbinary.cli.options import add_options, check_options, option, options_from, options_of
from dualbinary.errors import OptionError, with_names
from dualbinary.onnx_files.relayout.__main__ import RelayoutOptions
from exporter import ExportOptions
from exporter.__main__ import CommandOptions as ExporterCommandOptions
from runtime_ext import bench, generate, info

COMMANDS = {
    "exporter": (ExportOptions, ExporterCommandOptions),
    "calib": (CALIB_OPTIONS, CalibCommandOptions),
    "relayout": (RelayoutOptions,),
    "generate": generate.OPTIONS,
    "bench": bench.OPTIONS,
    "info": info.OPTIONS,
}


@dataclass(frozen=True)
class Options:
    """One option of each kind."""

    path: Path = option(help="where", metavar="FILE")
    count: int = option(4, help="how many, with {mode} b", minimum=1, maximum=8, old_names=("--number",))
    size: int | None = option(None, help="how large", multiple=32, shown="default: as it comes", group="sizes")
    share: float = option(0.5, help="how much", above=0, below=1)
    weight: float = option(1.0, help="how heavy", minimum=0)
    mode: str = option("a", help="which", choices=("a", "b"), names=("--kind", "--sort"), group="modes")
    names: tuple[str, ...] = option((), help="whose")
    several: tuple[str, ...] = option((), help="of whom", nargs="+")
    stages: tuple[Literal["x", "y"], ...] = option(("x",), help="parts of 100%")
    fast: bool = option(False, help="hurry")
    safe: bool = option(True, help="take care", old_names=("--careful",))
    checked: bool | None = option(None, help="look again")
    derived: int = 0

    def __post_init__(self):
        check_options(self)
        if self.mode == "b" and self.count > 4:
            raise OptionError("count", "at most 4 with {mode} b", self.count, "use {mode} a")


def parse(*words, sources=(Options,)):
    parser = argparse.ArgumentParser()
    add_options(parser, *sources)
    return parser.parse_args([str(word) for word in words])


def options(*words):
    return options_from(parse("--path", "p", *words), Options)


def test_what_is_not_given_is_the_default():
    assert options() == Options(Path("p"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--count", 8), {"count": 8}),
        (("--number", 3), {"count": 3}),
        (("--size", 64), {"size": 64}),
        (("--share", 0.25), {"share": 0.25}),
        (("--kind", "b"), {"mode": "b"}),
        (("--sort", "b"), {"mode": "b"}),
        (("--names", "a", "--names", "b"), {"names": ("a", "b")}),
        (("--several", "a", "b", "--several", "c"), {"several": ("a", "b", "c")}),
        (("--stages", "x,y"), {"stages": ("x", "y")}),
        (("--fast",), {"fast": True}),
        (("--no-safe",), {"safe": False}),
        (("--no-careful",), {"safe": False}),
        (("--checked",), {"checked": True}),
        (("--no-checked",), {"checked": False}),
    ],
)
def test_a_flag_sets_its_field(words, expected):
    assert options(*words) == replace(Options(Path("p")), **expected)


@pytest.mark.parametrize(
    "words", [("--derived", 1), ("--mode", "b"), ("--no-fast",), ("--kind", "c"), ("--count", "x")]
)
def test_what_is_no_option_or_no_value_of_it_leaves_with_2(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        options(*words)
    assert str(words[0]) in capsys.readouterr().err


def test_an_option_without_a_default_must_be_given(capsys):
    with pytest.raises(SystemExit, match="2"):
        parse()
    assert "--path" in capsys.readouterr().err


def test_help_has_groups_limits_defaults_and_flags_of_others_and_hides_old_names(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    parser = argparse.ArgumentParser()
    add_options(parser, Options)
    text = re.sub(r" +", " ", parser.format_help())
    assert "--path FILE where\n" in text
    assert "--count N how many, with --kind b (1 to 8; default 4)\n" in text
    assert "\nsizes:\n --size N how large (a positive multiple of 32; default: as it comes)\n" in text
    assert " --share X how much (above 0 and below 1; default 0.5)\n" in text
    assert " --weight X how heavy (at least 0; default 1)\n\nmodes:\n --kind {a,b}, --sort {a,b}" in text
    assert "which (default a)\n" in text
    assert "--stages {x,y} parts of 100%" in text
    assert "take care (default --safe)\n" in text
    assert "--number" not in text
    assert "--careful" not in text


@pytest.mark.parametrize(
    ("change", "in_library", "on_command_line"),
    [
        ({"count": 0}, "count: expected 1 to 8, got 0", "--count: expected 1 to 8, got 0"),
        ({"size": 48}, "size: expected a positive multiple of 32, got 48", "--size: expected a positive multiple"),
        ({"size": -32}, "size: expected a positive multiple of 32, got -32", "--size: expected a positive multiple"),
        ({"share": 0}, "share: expected above 0 and below 1, got 0", "--share: expected above 0 and below 1, got 0"),
        ({"share": 1}, "share: expected above 0 and below 1, got 1", "--share: expected above 0 and below 1, got 1"),
        ({"weight": float("inf")}, "weight: expected at least 0, got inf", "--weight: expected at least 0, got inf"),
        ({"share": float("nan")}, "share: expected above 0 and below 1, got nan", "--share: expected above 0"),
        (
            {"mode": "b", "count": 5},
            "count: expected at most 4 with mode b, got 5; use mode a",
            "--count: expected at most 4 with --kind b, got 5; use --kind a",
        ),
    ],
)
def test_a_wrong_value_is_named_by_field_in_the_library_and_by_flag_on_the_command_line(
    change, in_library, on_command_line, capsys
):
    with pytest.raises(InputError, match=f"^{in_library}$"):
        Options(Path("p"), **change)
    flags = {name: (each.names or (f"--{name}",))[0] for name, each in options_of(Options).items()}
    words = [word for name, value in change.items() for word in (flags[name], str(value))]
    parser = argparse.ArgumentParser()
    add_options(parser, Options)
    console.add_common_options(parser)
    assert console.run(parser, lambda args: print(options_from(args, Options)), ["--path", "p", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {on_command_line}")


def test_options_of_a_command_alone_are_checked_too():
    @dataclass(frozen=True)
    class Unchecked:
        count: int = option(1, help="how many", minimum=1)

    with pytest.raises(OptionError, match="count: expected at least 1, got 0"):
        options_from(parse("--count", 0, sources=(Unchecked,)), Unchecked)


def declared(command):
    """The options of a command by name."""
    sources = [source if isinstance(source, dict) else options_of(source) for source in COMMANDS[command]]
    found = {name: each for source in sources for name, each in source.items()}
    assert len(found) == sum(map(len, sources)), "two options of one name would share a value"
    return found


def spellings(name, each):
    return (*(each.names or (f"--{name.replace('_', '-')}",)), *each.old_names)


def sample(each):
    """A word to give after a flag, and the value that it is parsed to."""
    kinds = [each.kind, *get_args(each.kind), *(part for kind in get_args(each.kind) for part in get_args(kind))]
    if each.choices:
        return str(each.choices[-1]), each.choices[-1]
    if any(get_origin(kind) is Literal for kind in kinds):
        word = kinds[-1]
    else:
        word = next(value for kind, value in {int: 3, float: 0.25, Path: Path("x"), str: "x"}.items() if kind in kinds)
    return str(word), [word] if get_origin(each.kind) is tuple else word


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_can_be_given_by_each_of_its_names(command):
    for name, each in declared(command).items():
        source = {name: each}
        for flag in spellings(name, each):
            if bool in (each.kind, *get_args(each.kind)):
                assert getattr(parse(flag, sources=(source,)), name) is True
                if each.default is not False:
                    assert getattr(parse(f"--no-{flag[2:]}", sources=(source,)), name) is False
            else:
                word, value = sample(each)
                assert getattr(parse(flag, word, sources=(source,)), name) == value


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_limits_and_default_of_every_option(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    parser = argparse.ArgumentParser()
    add_options(parser, *COMMANDS[command])
    text = re.sub(r" +", " ", parser.format_help())
    for name, each in declared(command).items():
        line = re.search(rf"^ {spellings(name, each)[0]}\b.*(\n (?!-).*)?", text, re.MULTILINE)
        assert line is not None, name
        facts = [*map(str, each.choices), "" if each.choices else each.limits, each.shown or ""]
        if each.shown is None and each.default not in (None, MISSING, ()) and not isinstance(each.default, bool):
            shown = f"{each.default:g}" if isinstance(each.default, float) else each.default
            facts.append(f"default {shown})")
        # The other options that such words speak of.
        spoken_of = ("accuracy_level", "calibrate", "layout_for", "op", "target", "zero")
        flags = {name: f"--{name.replace('_', '-')}" for name in spoken_of}
        assert all(with_names(fact, flags) in line[0] for fact in facts)


def test_each_bounded_field_of_a_run_has_its_limit_in_the_option():
    """Pydantic's limits arrive; one field of each sort."""
    limits = {
        name: CALIB_OPTIONS[name].limits for name in ("format.planes", "init.damping", "e2e.gamma", "data.length")
    }
    assert limits == {
        "format.planes": "1 to 8",
        "init.damping": "above 0 and below 1",
        "e2e.gamma": "0 to 1",
        "data.length": "at least 8",
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--e2e-gamma", "2"], "--e2e-gamma: expected 0 to 1, got 2"),
        (["--group-size", "50"], "--group-size: expected a multiple of 32"),
        (["--bases", "9"], "--planes: expected 1 to 8, got 9"),
    ],
)
def test_a_run_names_the_flag_of_a_wrong_value(words, message, capsys):
    from calib.options import config_from

    assert console.run(calib_parser(), lambda args: print(config_from(args)), ["model", "out", *words]) == 2
    assert message in capsys.readouterr().err
