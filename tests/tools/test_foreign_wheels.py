"""Wheels of other systems, as far as they run here; `make wheels` has to have built them.

Kernels of one architecture come from one compiler, so that a product has the same bits on each of its systems.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

from dualbinary.files.systems import SYSTEMS
from exporter.options import ExportOptions
from exporter.pipeline import export
from runtime_ext.capi import TYPES, Spec
from tests.support.problems import assert_close, make_problem
from tests.support.tiny_models import make_model
from tools.hosts import wheel as this_machine
from tools.hosts import windows
from tools.hosts.task import NotHereError, Task
from tools.wheels.build import build_wheel
from tools.wheels.check import check_wheel
from tools.wheels.foreign import NotHereError as MissingError
from tools.wheels.foreign import library_of, multiplied
from tools.wheels.targets import Target, targets

pytestmark = pytest.mark.slow

DIST = Path(__file__).resolve().parents[2] / "dist"
ROWS, PLANES = 3, 2
PROBLEM = make_problem(M=ROWS, planes=PLANES)


def built(name: str) -> tuple[Path, Target]:
    (target,) = targets([name])
    wheels = [path for path in DIST.glob("dualbinary-*.whl") if target.of.fits(path.stem.split("-")[-1])]
    if not wheels:
        pytest.skip(f"dist has no wheel of {name}: `make wheels` builds it")
    return max(wheels, key=lambda path: path.stat().st_mtime), target


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_a_wheel_is_what_its_name_says(system):
    wheel, target = built(system.name)
    facts = check_wheel(wheel, target)
    assert facts.library.signed == (system.name == "macos-arm64")


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    """Y [ROWS, N] of one problem by the library of a system, made once for each."""
    made = {}

    def get(name):
        if name not in made:
            wheel, target = built(name)
            folder = tmp_path_factory.mktemp(name)
            sizes = (PROBLEM.K, PROBLEM.N, PROBLEM.group_size, PLANES, PLANES, 1, 0, 0, 0, PROBLEM.N)
            spec = Spec(*sizes, TYPES[PROBLEM.scales.dtype])
            try:
                library = library_of(wheel, target, folder)
                given = PROBLEM.planes, PROBLEM.scales, PROBLEM.x
                bits = multiplied(library, target, folder, spec, *given).bits
            except MissingError as missing:
                pytest.skip(str(missing))
            numbers = np.array([int(each, 16) for each in bits], np.uint32)
            made[name] = numbers.view(np.float32).reshape(ROWS, PROBLEM.N)
        return made[name]

    return get


@pytest.mark.parametrize("name", ["linux-x64", "linux-musl-x64", "windows-x64"])
def test_a_library_multiplies_as_the_reference_does(name, product):
    assert_close(product(name), PROBLEM, PROBLEM.error_bound(0))


@pytest.mark.parametrize("name", ["linux-musl-x64", "windows-x64"])
def test_a_product_has_the_bits_of_linux(name, product):
    np.testing.assert_array_equal(product(name).view(np.uint32), product("linux-x64").view(np.uint32))


def test_windows_gives_the_tokens_of_this_machine(tmp_path):
    source = make_model("llama", tmp_path / "model")
    out = tmp_path / "out" / "model.onnx"
    export(source, out, ExportOptions(planes=2))
    task = Task(out, source, tmp_path / "work", (5, 6, 7), 8)
    built("windows-x64")
    built("linux-x64")
    try:
        assert windows.tokens(task) == this_machine.tokens(task)
    except NotHereError as missing:
        pytest.skip(str(missing))


def test_two_builds_of_a_commit_are_the_same_bytes(tmp_path):
    wheel, target = built("linux-x64")
    first = build_wheel(target, tmp_path / "first", tmp_path / "one")
    second = build_wheel(target, tmp_path / "second", tmp_path / "elsewhere" / "two")
    assert first.name == wheel.name
    assert first.read_bytes() == second.read_bytes()
    shutil.rmtree(tmp_path / "one")
