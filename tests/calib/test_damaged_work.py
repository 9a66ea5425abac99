"""Work of a run that is damaged, or of another run: a resumed one finds out, and never ends in another result."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from calib.data.generate import load_windows
from calib.stages.activation_cache import ActivationCache
from calib.state import WorkDirectory
from dualbinary import InputError
from tests.support.faults import can_mount, small_disk

IDENTITY = {"config": {"seed": 1}}
TENSORS = {"planes": torch.arange(24, dtype=torch.uint8).view(2, 3, 4), "scales": torch.randn(3, 3, 1).half()}
SHAPE = (3, 4, 8)


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "out.work"
    with WorkDirectory(path, IDENTITY) as work:
        work.write_tensors("block-000", TENSORS, {"error": 0.1})
        work.write_tensors("block-001", TENSORS, {"error": 0.1})
    return path


def test_no_bit_of_a_result_can_flip_unseen(written):
    file = written / "block-000.safetensors"
    content = file.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        with WorkDirectory(written, IDENTITY) as work:
            try:
                tensors, figures = work.read_tensors("block-000")
            except InputError as error:
                assert "--fresh" in str(error)
                continue
        # A bit of padding, or one that the JSON means the same with.
        assert figures == {"error": 0.1}
        assert tensors.keys() == TENSORS.keys()
        assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())


def test_a_result_of_another_run_or_of_another_place_is_refused(written, tmp_path):
    with WorkDirectory(tmp_path / "other.work", {"config": {"seed": 2}}) as other:
        other.write_tensors("block-000", TENSORS, {"error": 0.1})
    for source in (tmp_path / "other.work/block-000.safetensors", written / "block-001.safetensors"):
        shutil.copyfile(source, written / "block-000.safetensors")
        with (
            WorkDirectory(written, IDENTITY) as work,
            pytest.raises(InputError, match=r"damaged, or of another run.*-f"),
        ):
            work.read_tensors("block-000")


def test_results_of_version_1_are_read_and_those_of_a_later_one_refused_by_name(written):
    file = written / "block-000.safetensors"
    save_file(TENSORS, file, {"json": json.dumps({"error": 0.2})})
    with WorkDirectory(written, IDENTITY) as work:
        assert work.read_tensors("block-000")[1] == {"error": 0.2}
        save_file(TENSORS, file, {"result": json.dumps({"version": 3, "digest": "", "object": {}})})
        with pytest.raises(InputError, match="of version 3, expected 2; start over with --fresh"):
            work.read_tensors("block-000")


def test_a_damaged_run_file_says_how_to_go_on(written):
    (written / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json: not valid JSON .*; start over with --fresh"):
        WorkDirectory(written, IDENTITY).__enter__()


def cache_of(directory, run=b"a run"):
    return ActivationCache(directory, SHAPE, 1, ("student",), lambda name: run + name.encode())


def test_no_bit_of_cached_activations_can_flip_unseen(tmp_path):
    cache = cache_of(tmp_path)
    cache.create("student", 1)[:] = torch.arange(96.0).view(SHAPE)
    cache.keep("student", 1)
    assert cache.complete(1)
    assert torch.equal(cache.open("student", 1), torch.arange(96.0).view(SHAPE))
    file = cache.path("student", 1)
    content = file.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        assert not cache.complete(1)
    file.write_bytes(content)
    assert not cache_of(tmp_path, b"another run").complete(1)
    shutil.copyfile(file, cache.path("student", 2))
    assert not cache.complete(2)  # what enters another block


@pytest.mark.skipif(not can_mount(), reason="mounting a small disk takes root")
def test_a_full_disk_is_an_error_before_activations_are_mapped(tmp_path):
    """A page of a mapped file that has no room would end the process."""
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        cache = ActivationCache(disk.path, (64, 8, 64), 1, ("student",))  # made while there was room
        (disk.path / "others").write_bytes(bytes(960 << 10))
        with pytest.raises(OSError, match="No space left") as raised:
            cache.create("student", 0)
        assert raised.value.filename == str(disk.path / "student-0.f32.new")


@pytest.mark.skipif(not can_mount(), reason="mounting a small disk takes root")
def test_a_full_disk_names_the_result_and_leaves_nothing_of_it(tmp_path):
    with small_disk(tmp_path / "disk", 64 << 10) as disk:
        path = disk.path / "out.work"
        with WorkDirectory(path, IDENTITY) as work:
            work.write_tensors("small", TENSORS, {})
            with pytest.raises(OSError, match="No space left") as raised:
                work.write_tensors("large", {"zeros": torch.zeros(1 << 18)}, {})
            assert raised.value.filename == str(path / "large.safetensors")
            assert sorted(entry.name for entry in path.iterdir()) == ["lock", "run.json", "small.safetensors"]
            assert work.read_tensors("small")[0].keys() == TENSORS.keys()


def test_generated_text_that_was_damaged_is_refused(tmp_path):
    file = tmp_path / "text.safetensors"
    metadata = {"seed": 0, "digest": "of other tokens"}
    save_file({"tokens": torch.from_numpy(np.ones((2, 8), np.int32))}, file, {"json": json.dumps(metadata)})
    with pytest.raises(InputError, match=r"text\.safetensors: damaged, its tokens are not those that were written"):
        load_windows(file, 8, 16)
