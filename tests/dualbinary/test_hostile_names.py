"""What messages show of files that nobody has checked, and JSON that is made to exhaust its reader."""

import argparse
import json

import pytest

from dualbinary import InputError
from dualbinary.cli.console import add_common_options, printable, run
from dualbinary.files.json_objects import MAX_NESTING, read_json_object


def said(capsys, message):
    parser = argparse.ArgumentParser()
    add_common_options(parser)

    def command(args):
        raise InputError(message)

    assert run(parser, command, []) == 2
    return capsys.readouterr().err


def test_control_characters_of_a_name_do_not_reach_the_terminal(capsys):
    assert said(capsys, "a\x1b[2J\x07\u202eb\nc \ud800") == "error: a\\x1b[2J\\x07\\u202eb c \\ud800\n"


def test_a_message_has_an_end(capsys):
    assert len(said(capsys, "x" * 1_000_000)) < 3000


def test_letters_of_all_scripts_stay():
    assert printable("größe 模型 é") == "größe 模型 é"


def nested(depth):
    return "[" * depth + "]" * depth


def test_json_is_read_to_a_depth(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": ' + nested(MAX_NESTING - 1) + "}")
    assert read_json_object(path)["a"] == json.loads(nested(MAX_NESTING - 1))
    path.write_text('{"a": ' + nested(MAX_NESTING) + "}")
    with pytest.raises(InputError, match="at most 100 deep"):
        read_json_object(path)


def test_a_json_file_has_a_size(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("{}")
    with path.open("r+b") as file:
        file.truncate((1 << 28) + 1)  # a hole, which takes no room
    with pytest.raises(InputError, match="at most 268435456 bytes, got 268435457"):
        read_json_object(path)


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: None], ids=["a folder", "nothing"])
def test_what_is_no_file_is_wrong_input(tmp_path, make):
    make(tmp_path / "x.json")
    with pytest.raises(InputError, match=r"x\.json: (cannot be read|missing)"):
        read_json_object(tmp_path / "x.json")
