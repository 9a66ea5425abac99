"""Blockwise calibration that is killed anywhere ends in the same bits."""

import json
import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import torch

from calib.config import BlockConfig, CalibConfig, InitConfig
from calib.models.source import SourceModel
from calib.stages.blockwise import calibrate_blockwise
from calib.stages.context import RunContext
from calib.state import WorkDirectory

LENGTH = 16
WINDOWS = 9


class Killed(BaseException):
    """Ends a run as a signal would."""


def killed_at(call: int) -> Callable[..., None]:
    """A progress callback that ends the run at its call number `call`."""
    left = [call]

    def progress(*_, **__) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    return progress


def assert_same(left, right):
    assert left.reports == right.reports
    for name, tensors in left.layers.items():
        assert all(map(torch.equal, tensors, right.layers[name])), name


@pytest.fixture(scope="module")
def tokens(random_tokens):
    return random_tokens(WINDOWS, LENGTH)


# Killed in process: at calls of the progress callback, and around every step that puts a file in its place.


@pytest.fixture(scope="module")
def quick(blockwise_config):
    """Two layers of each block and a start that looks at inputs briefly, for the tests that run again and again."""
    init = InitConfig(method="activation", windows=4, refits=0, polishes=0)
    return blockwise_config(skip=("*.mlp.*", "*.k_proj", "*.v_proj"), init=init)


CALLS = 2 * (6 // 2 + 1)  # of the progress callback: three steps and the end of each of two blocks


@pytest.fixture(scope="module")
def whole(tiny_model, calibrated_blocks, tokens, quick):
    """What a run gives that nothing ends."""
    calls = []
    result = calibrated_blocks(tiny_model("llama"), tokens, config=quick, progress=lambda *_, **__: calls.append(1))
    assert len(calls) == CALLS
    return result


# The first step and a later one of the first block, its end, and a step of the second; then all others.
@pytest.mark.parametrize(
    "call", [pytest.param(n, marks=[] if n in (0, 2, 3, 5) else pytest.mark.slow) for n in range(CALLS)]
)
def test_killed_at_every_call_it_resumes_to_the_same_bits(
    tiny_model, calibrated_blocks, tokens, quick, whole, tmp_path, call
):
    path = tmp_path / "killed"
    with pytest.raises(Killed):
        calibrated_blocks(tiny_model("llama"), tokens, config=quick, path=path, progress=killed_at(call))
    assert_same(whole, calibrated_blocks(tiny_model("llama"), tokens, config=quick, path=path))


def test_killed_again_and_again_it_resumes_to_the_same_bits(
    tiny_model, calibrated_blocks, tokens, quick, whole, tmp_path
):
    generator = random.Random(0)
    for _ in range(6):
        with suppress(Killed):
            progress = killed_at(generator.randrange(CALLS))
            calibrated_blocks(tiny_model("llama"), tokens, config=quick, path=tmp_path / "killed", progress=progress)
    assert_same(whole, calibrated_blocks(tiny_model("llama"), tokens, config=quick, path=tmp_path / "killed"))


# After a file is hardly another state than before the next one: that one is not begun.
@pytest.mark.parametrize("moment", ["before", pytest.param("after", marks=pytest.mark.slow)])
def test_killed_at_every_file_it_resumes_to_the_same_bits(
    tiny_model, calibrated_blocks, tokens, quick, whole, tmp_path, monkeypatch, moment
):
    replace, left = Path.replace, [0]

    def killing(self, target):
        left[0] -= 1
        if left[0] < 0 and moment == "before":
            raise Killed
        replace(self, target)
        if left[0] < 0:
            raise Killed

    files = 1 + 2 + 2 * 3  # run.json, two streams; of each block two streams and its result
    for call in range(files + 1):
        left[0], path = call, tmp_path / f"killed-{call}"
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killing)
            with pytest.raises(Killed) if call < files else nullcontext():
                calibrated_blocks(tiny_model("llama"), tokens, config=quick, path=path)
        results = len(list(path.glob("block-*.safetensors")))
        if call + (moment == "after") >= 3 and results < 2:  # so that nothing is computed twice but the current block
            assert all((path / "streams" / f"{kind}-{results}.f32").exists() for kind in ("teacher", "student"))
        assert_same(whole, calibrated_blocks(tiny_model("llama"), tokens, config=quick, path=path))
        assert not (path / "streams").exists()


@pytest.mark.parametrize("loss", ["all", "one", "cut"])
def test_lost_activations_are_made_again(tiny_model, calibrated_blocks, tokens, quick, whole, tmp_path, loss):
    path = tmp_path / "lost"
    with pytest.raises(Killed):
        calibrated_blocks(tiny_model("llama"), tokens, config=quick, path=path, progress=killed_at(CALLS - 2))
    assert (path / "block-000.safetensors").exists()
    if loss == "all":
        shutil.rmtree(path / "streams")
    elif loss == "one":
        (path / "streams" / "teacher-1.f32").unlink()
    else:
        os.truncate(path / "streams" / "student-1.f32", 1000)
    assert_same(whole, calibrated_blocks(tiny_model("llama"), tokens, config=quick, path=path))


def test_a_finished_calibration_is_not_repeated(tiny_model, calibrated_blocks, tokens, quick, tmp_path):
    calls = []
    first, again = (
        calibrated_blocks(tiny_model("llama"), tokens, config=quick, path=tmp_path / "work", progress=progress)
        for progress in (lambda *_, **__: None, lambda *_, **__: calls.append(1))
    )
    assert not calls
    assert_same(first, again)


# Killed for real.


def run_calibration(directory: Path, path: Path, tokens: torch.Tensor, config: CalibConfig) -> None:
    """One run, in its own process."""
    source = SourceModel(directory, config.format.plane_format)
    with WorkDirectory(path, {}) as work:
        calibrate_blockwise(RunContext(source, config, work, torch.float32), tokens)


def files_of(path: Path) -> dict[str, bytes]:
    """The results, without their times."""
    contents = {}
    with WorkDirectory(path, {}) as work:
        for file in sorted(path.glob("block-*.safetensors")):
            tensors, report = work.read_tensors(file.stem)
            contents[file.stem] = json.dumps({**report, "seconds": 0}).encode()
            contents |= {name: value.numpy().tobytes() for name, value in tensors.items()}
    return contents


@pytest.mark.slow
def test_twenty_real_kills_end_in_the_same_bits(tiny_model, tokens, blockwise_config, tmp_path):
    config = blockwise_config(block=BlockConfig(windows=6, held_out=3, epochs=8))
    context = multiprocessing.get_context("forkserver")  # so that torch is imported once
    context.set_forkserver_preload(["calib.stages.blockwise", "transformers.models.llama.modeling_llama"])

    def start(path: Path):
        process = context.Process(target=run_calibration, args=(tiny_model("llama"), path, tokens, config))
        process.start()
        return process

    for name in ("warm", "whole"):
        begin = time.perf_counter()
        process = start(tmp_path / name)
        process.join()
        assert process.exitcode == 0
        seconds = time.perf_counter() - begin
    expected = files_of(tmp_path / "whole")

    generator = random.Random(0)
    kills = runs = 0
    while kills < 20:
        process = start(tmp_path / f"run-{runs}")
        process.join(generator.uniform(0, 0.8 * seconds))
        process.kill()
        process.join()
        if process.exitcode == 0:
            assert files_of(tmp_path / f"run-{runs}") == expected
            runs += 1
        else:
            assert process.exitcode == -9
            kills += 1
    process = start(tmp_path / f"run-{runs}")
    process.join()
    assert files_of(tmp_path / f"run-{runs}") == expected
