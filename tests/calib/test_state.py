"""The work directory: whose it is, who is at work in it, and results that are there whole or not at all."""

import json
import subprocess
import sys

import pytest
import torch

from calib.state import WorkDirectory
from dualbinary import InputError

IDENTITY = {"config": {"seed": 1, "block": {"batch": 2, "windows": 8}}, "model": {"config.json": [10, 20]}}
TENSORS = {"planes": torch.arange(24, dtype=torch.uint8).view(2, 3, 4), "scales": torch.randn(3, 3, 1).half()}
FIGURES = {"name": "model.layers.0", "errors": [0.1, 1e-9], "layers": {"a": {"b": None}}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.work"


def test_a_result_comes_back_as_it_was(path):
    with WorkDirectory(path, IDENTITY) as work:
        assert not work.has("block-000")
        work.write_tensors("block-000", TENSORS, FIGURES)
        assert work.has("block-000")
    with WorkDirectory(path, IDENTITY) as work:  # another process
        tensors, figures = work.read_tensors("block-000")
    assert figures == FIGURES
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert tensors[name].dtype == value.dtype
        assert torch.equal(tensors[name], value)


def test_a_result_may_be_replaced(path):
    with WorkDirectory(path, IDENTITY) as work:
        work.write_tensors("e2e", {"a": torch.zeros(2)}, {"step": 1})
        work.write_tensors("e2e", {"a": torch.ones(2)}, {"step": 2})
        tensors, figures = work.read_tensors("e2e")
        assert (tensors["a"].tolist(), figures) == ([1, 1], {"step": 2})


def test_tensors_need_not_be_contiguous(path):
    turned = torch.arange(6).view(2, 3).T
    with WorkDirectory(path, IDENTITY) as work:
        work.write_tensors("a", {"turned": turned}, {})
        assert torch.equal(work.read_tensors("a")[0]["turned"], turned)


def test_removing_takes_everything(path):
    with WorkDirectory(path, IDENTITY) as work:
        work.write_tensors("a", TENSORS, {})
        work.remove()
    assert not path.exists()


def test_a_second_run_is_refused_while_the_first_is_at_work(path):
    with WorkDirectory(path, IDENTITY) as work:
        work.write_tensors("a", TENSORS, {})
        for fresh in (False, True):
            with pytest.raises(InputError, match=r"out\.work: another run is at work here"):
                WorkDirectory(path, IDENTITY, fresh=fresh).__enter__()
        assert work.has("a")
    with WorkDirectory(path, IDENTITY):
        pass


def test_the_lock_is_held_against_other_processes_and_ends_with_its_own(path):
    script = (
        "import sys\nfrom pathlib import Path\nfrom calib.state import WorkDirectory\n"
        "with WorkDirectory(Path(sys.argv[1]), {}):\n    print('entered', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "entered\n"
        with pytest.raises(InputError, match="another run"):
            WorkDirectory(path, {}).__enter__()
        other.kill()
        other.wait()
        with WorkDirectory(path, {}):
            pass


def test_a_reader_needs_no_lock(path):
    with WorkDirectory(path, IDENTITY) as work:
        work.write_tensors("a", TENSORS, FIGURES)
        with WorkDirectory(path, IDENTITY, reader=True) as reader:
            assert reader.read_tensors("a")[1] == FIGURES
        with pytest.raises(InputError, match="another run"):  # the reader took no lock with it
            WorkDirectory(path, IDENTITY).__enter__()


def test_a_run_that_got_nothing_done_makes_room_for_another(path):
    with WorkDirectory(path, IDENTITY):
        pass
    with WorkDirectory(path, {**IDENTITY, "model": {}}) as work:
        work.write_tensors("a", TENSORS, {})
    with pytest.raises(InputError, match="differs in model"), WorkDirectory(path, IDENTITY):
        pass


@pytest.mark.parametrize(
    ("other", "names"),
    [
        ({"config": {"seed": 2, "block": {"batch": 2, "windows": 8}}}, ["config.seed"]),
        ({"config": {"seed": 2, "block": {"batch": 4, "windows": 8}}}, ["config.block.batch", "config.seed"]),
        ({"config": {"seed": 1, "block": {"windows": 8}}}, ["config.block.batch"]),
        ({"config": {"seed": 1, "block": None}}, ["config.block"]),
        ({"model": {"config.json": [10, 21]}}, ["model.config.json"]),
        ({"model": {"config.json": [10, 20], "model.safetensors": [1, 2]}}, ["model.model.safetensors"]),
    ],
    ids=str,
)
def test_another_run_is_refused_with_what_differs(path, other, names):
    with WorkDirectory(path, IDENTITY) as work:
        work.write_tensors("a", TENSORS, {})
    message = rf"belongs to a run that differs in {', '.join(names)}; start over with --fresh"
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        WorkDirectory(path, {**IDENTITY, **other}).__enter__()
    with WorkDirectory(path, IDENTITY) as work:  # nothing was lost, and the lock is free
        assert work.has("a")


def test_tuples_and_lists_are_the_same_identity(path):
    for value in ((1, 2), [1, 2]):
        with WorkDirectory(path, {"skip": value}):
            pass


def test_fresh_forgets_what_was_done(path):
    with WorkDirectory(path, IDENTITY) as work:
        work.write_tensors("a", TENSORS, {})
        (path / "streams").mkdir()
        (path / "streams" / "teacher-1.f32").write_bytes(b"0" * 8)
    with WorkDirectory(path, {"other": 1}, fresh=True) as work:
        assert not work.has("a")
        assert sorted(entry.name for entry in path.iterdir()) == ["lock", "run.json"]
    with WorkDirectory(path, {"other": 1}):
        pass


@pytest.mark.parametrize("fresh", [False, True])
def test_a_directory_with_something_else_in_it_is_left_alone(path, fresh):
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"out\.work: holds thesis\.txt"):
        WorkDirectory(path, IDENTITY, fresh=fresh).__enter__()
    assert (path / "thesis.txt").read_text() == "years of work"


def test_a_run_that_was_killed_before_it_began_is_no_trouble(path):
    path.mkdir()
    (path / "lock").touch()
    (path / "run.json.new").write_text('{"conf')
    with WorkDirectory(path, IDENTITY):
        pass
    assert json.loads((path / "run.json").read_text()) == IDENTITY


def test_a_result_that_was_not_finished_is_not_there(path):
    with WorkDirectory(path, IDENTITY) as work:
        (path / "a.safetensors.new").write_bytes(b"half of")
        assert not work.has("a")
        work.write_tensors("a", TENSORS, {})
        assert work.read_tensors("a")[0].keys() == TENSORS.keys()
        assert not (path / "a.safetensors.new").exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "header", "metadata", "json", "missing"])
def test_a_damaged_result_is_named(path, damage):
    from safetensors.torch import save_file

    with WorkDirectory(path, IDENTITY) as work:
        work.write_tensors("a", TENSORS, {})
        file = path / "a.safetensors"
        content = file.read_bytes()
        if damage == "cut":
            file.write_bytes(content[:-5])
        elif damage == "empty":
            file.write_bytes(b"")
        elif damage == "header":
            file.write_bytes(content[:8] + b"}" + content[9:])
        elif damage == "metadata":
            save_file(TENSORS, file)
        elif damage == "json":
            save_file(TENSORS, file, {"json": "{"})
        else:
            file.unlink()
        with pytest.raises(InputError, match=r"a\.safetensors: not a result of this tool.*--fresh"):
            work.read_tensors("a")


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_run_file_is_named_and_fresh_helps(path, content):
    with WorkDirectory(path, IDENTITY) as work:
        work.write_tensors("a", TENSORS, {})
    (path / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json"):
        WorkDirectory(path, IDENTITY).__enter__()
    with WorkDirectory(path, IDENTITY, fresh=True):
        pass


def test_an_error_inside_gives_the_lock_back(path):
    with pytest.raises(ValueError, match="inside"), WorkDirectory(path, IDENTITY):
        raise ValueError("inside")
    with WorkDirectory(path, IDENTITY):
        pass
