"""Files and directories that are there whole or not at all."""

import os

import pytest

from dualbinary import InputError
from dualbinary.files import atomic
from dualbinary.files.atomic import check_file, new_directory, write_text, writing


def test_a_text_replaces_the_file_and_leaves_nothing_beside(tmp_path):
    file = tmp_path / "a.json"
    write_text(file, "old")
    write_text(file, "new")
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path):
    file = tmp_path / "a.json"
    write_text(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "\ud800")
    assert file.read_text() == "old"


@pytest.mark.parametrize(
    ("name", "message"),
    [("folder", "folder: a directory"), ("no/such.json", "such.json: its directory does not exist")],
)
def test_a_place_for_no_file_is_refused_and_nothing_is_left(tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    for write in (check_file, lambda path: write_text(path, "text")):
        with pytest.raises(InputError, match=message):
            write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_text_that_cannot_be_moved_leaves_nothing_beside(tmp_path, monkeypatch):
    def move(aside, target):
        raise PermissionError

    monkeypatch.setattr(atomic, "move_into_place", move)
    with pytest.raises(PermissionError):
        write_text(tmp_path / "a.json", "text")
    assert not list(tmp_path.iterdir())


def test_a_new_directory_appears_when_its_block_ends(tmp_path):
    target = tmp_path / "parent" / "new"
    with new_directory(target) as staging:
        (staging / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert list(target.parent.iterdir()) == [target]


def test_a_block_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), new_directory(tmp_path / "new") as staging:
        (staging / "a").write_text("1")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_directory_with_files_is_kept(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is not an empty directory"), new_directory(tmp_path):
        pass
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(28, "No space"), 28),
        (OSError(27, "Too large"), 27),
        (RuntimeError("Error while serializing: I/O error: full (os error 28)"), 28),
    ],
)
def test_what_cannot_be_written_is_named(tmp_path, error, number):
    with pytest.raises(OSError, match="model") as raised, writing(tmp_path / "model"):
        raise error
    assert (raised.value.errno, raised.value.filename) == (number, str(tmp_path / "model"))


@pytest.mark.parametrize(
    "error", [OSError(28, "No space", "other"), RuntimeError("no such file (os error 2)"), KeyError("os error 28")]
)
def test_an_error_that_has_a_name_or_is_of_reading_stays_what_it_is(tmp_path, error):
    with pytest.raises(type(error)) as raised, writing(tmp_path / "model"):
        raise error
    assert raised.value is error


def test_what_an_exception_leaves_of_a_file_goes(tmp_path):
    file = tmp_path / "half"
    with pytest.raises(KeyboardInterrupt), writing(file, remove=True):
        file.write_text("half")
        raise KeyboardInterrupt
    assert not file.exists()


def test_what_a_killed_run_left_of_a_directory_goes(tmp_path):
    for left in (".new.999999999.partial", f".new.{os.getpid()}.partial", ".newer.999999999.partial"):
        (tmp_path / left).mkdir()
    with new_directory(tmp_path / "new") as staging:
        (staging / "a").write_text("1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".newer.999999999.partial", "new"]


def test_windows_opens_no_directory(tmp_path, monkeypatch):
    opened = []
    real = os.open
    monkeypatch.setattr(atomic, "ON_WINDOWS", True)
    monkeypatch.setattr(atomic.os, "open", lambda path, *rest: opened.append((path, *rest)) or real(path, *rest))
    atomic.write_text(tmp_path / "a.txt", "text")
    assert opened == [(tmp_path / "a.txt.new", os.O_RDWR)]
    assert (tmp_path / "a.txt").read_text() == "text"
