"""Whoever writes files is killed before each change of the file system: nothing is lost, and nothing is half there."""

import json
import os
import shutil
import signal

import pytest

from dualbinary.files.atomic import new_directory, write_text
from dualbinary.files.staging import check_output, staged
from tests.support.faults import killed_at

NEW = {"config.json": "new", "model.onnx": "new", "model.onnx.data": "new", "onnx/more.json": "new", "z.json": "new"}
OLD = {
    "chat_template.jinja": "old",
    "config.json": "old",
    "model.onnx": "old",
    "model.onnx.data": "old",
    "mine": "mine",
}
STALE = ("chat_template.jinja",)
AFTER = {**NEW, "mine": "mine"}

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system kills in another way")


def killed(work, number, room):
    """Run `work` in a child that is killed before its change `number`; False where it came to its end."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(killed_at(lambda _: work() or 0, number, room)([]))
        except BaseException:
            os._exit(70)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def write(files, directory):
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


def visible(directory):
    files = [path for path in directory.rglob("*") if path.is_file()]
    names = {str(path.relative_to(directory)): path.read_text() for path in files}
    return {name: text for name, text in names.items() if not name.startswith(".")}


def stage_new(directory):
    with staged(directory, STALE) as stage:
        write(NEW, stage)


def look(directory):
    """What a command does first, whether or not it may write."""
    check_output(directory / "another.onnx", [], force=True)


@pytest.mark.parametrize("before", [{}, OLD], ids=["into nothing", "over older files"])
def test_files_that_move_are_all_there_or_all_come_back(tmp_path, before):
    number, moments = 0, set()
    while True:
        directory = tmp_path / str(number)
        directory.mkdir()
        write(before, directory)
        alive = killed(lambda place=directory: stage_new(place), number, directory)
        if "model.onnx" in visible(directory):  # a graph never lies beside another one's files
            assert visible(directory) in (before, AFTER if before else NEW)
        look(directory)
        assert visible(directory) in (before, AFTER if before else NEW)
        moments.add(visible(directory) == before)
        stage_new(directory)
        assert visible(directory) == (AFTER if before else NEW)
        assert not list(directory.glob(".*"))
        if not alive:
            break
        number += 1
    assert number > 20
    assert moments == {True, False}


@pytest.mark.parametrize("step", [5, pytest.param(3, marks=pytest.mark.slow)])
def test_what_takes_moves_back_may_be_killed_as_well(tmp_path, step):
    """Every second kill is in the recovery from the first one."""
    found = 0
    for first in range(0, 100, step):
        directory = tmp_path / "made" / str(first)
        directory.mkdir(parents=True)
        write(OLD, directory)
        if not killed(lambda place=directory: stage_new(place), first, directory):
            break
        for second in range(100):
            again = tmp_path / "again"
            shutil.rmtree(again, ignore_errors=True)
            shutil.copytree(directory, again)
            alive = killed(lambda place=again: look(place), second, again)
            if "model.onnx" in visible(again):
                assert visible(again) in (OLD, AFTER)
            look(again)
            assert visible(again) in (OLD, AFTER)
            if not alive:
                break
            found += 1
    assert found > 20


def test_a_stage_of_a_process_that_had_this_number_is_taken_back(tmp_path):
    write(OLD, tmp_path)
    stage = tmp_path / f".dualbinary-export-{os.getpid()}"
    (stage / "replaced").mkdir(parents=True)
    names = {"new": ["model.onnx"], "older": ["model.onnx"]}
    (stage / "names.json").write_text(json.dumps(names))
    os.replace(tmp_path / "model.onnx", stage / "replaced" / "model.onnx")
    (tmp_path / "model.onnx").write_text("half of the new files")

    with pytest.raises(ZeroDivisionError), staged(tmp_path):
        raise ZeroDivisionError

    assert visible(tmp_path) == OLD


def test_a_directory_appears_whole_and_leaves_nothing(tmp_path):
    def make(place):
        with new_directory(place / "new") as staging:
            write(NEW, staging)

    number = 0
    for number in range(100):
        room = tmp_path / str(number)
        room.mkdir()
        alive = killed(lambda room=room: make(room), number, room)
        whole = (room / "new").exists()
        assert not whole or visible(room / "new") == NEW
        if not whole:
            make(room)
        assert [path.name for path in room.iterdir()] == ["new"]
        assert visible(room / "new") == NEW
        if not alive:
            break
    assert 5 < number < 99


def test_a_text_is_the_older_or_the_newer_one(tmp_path):
    file = tmp_path / "a.json"
    number = 0
    for number in range(9):
        file.write_text("old")
        alive = killed(lambda: write_text(file, "new"), number, tmp_path)
        assert file.read_text() == ("old" if alive else "new")
        if not alive:
            break
    assert number == 2  # opened and renamed
