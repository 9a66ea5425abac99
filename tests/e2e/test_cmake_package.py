"""The installed package for C and C++, as a project of somebody else uses it: by CMake and by pkg-config."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import runtime_ext
from tests.support.problems import make_problem, op_model
from tests.support.sessions import open_session, run

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = Path(__file__).parent / "outside_project"
VERSION = str(runtime_ext.describe()["version"])
SYMBOL = "RegisterDualBinaryCustomOps"


def call(*command: object, **options) -> subprocess.CompletedProcess:
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, **options)
    assert done.returncode == 0, done.stderr.decode()
    return done


@pytest.fixture(scope="module")
def libraries(tmp_path_factory) -> Path:
    """ONNX Runtime's library under the names that a program and a linker ask for."""
    found = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if not found:
        pytest.skip("this onnxruntime wheel has no separate shared library")
    directory = tmp_path_factory.mktemp("onnxruntime")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (directory / name).symlink_to(found[0])
    return directory


@pytest.fixture(scope="module")
def headers() -> Path:
    """ONNX Runtime's headers, where the build of the library found them."""
    line = next(line for line in (build_tree() / "build.ninja").read_text().splitlines() if " -isystem " in line)
    return Path(line.split(" -isystem ")[1].split()[0])


def build_tree() -> Path:
    """Where `make setup` builds."""
    trees = sorted((ROOT / "build").glob("py3-none-*/build.ninja"))
    if not trees:
        pytest.skip("no build tree under build/: run make setup")
    return trees[-1].parent


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """The installed package, moved after it was installed."""
    first = tmp_path_factory.mktemp("first") / "prefix"
    call("cmake", "--install", build_tree(), "--prefix", first)
    assert not (first / "runtime_ext").exists()  # that is the wheel's
    moved = tmp_path_factory.mktemp("second") / "moved"
    shutil.move(first, moved)
    return moved


@pytest.fixture(scope="module")
def by_cmake(tmp_path_factory, package, libraries, headers) -> Path:
    """The outside project, built by CMake in a directory of its own."""
    source = tmp_path_factory.mktemp("outside") / "source"
    shutil.copytree(OUTSIDE, source)
    build = source.parent / "build"
    options = [f"-DCMAKE_PREFIX_PATH={package}", f"-DONNXRUNTIME_INCLUDE_DIR={headers}"]
    call("cmake", "-S", source, "-B", build, *options, f"-DONNXRUNTIME_LIBRARY={libraries / 'libonnxruntime.so'}")
    call("cmake", "--build", build)
    return build


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """A function that says whether a program computes what Python computes, to the bit."""
    problem = make_problem(M=(3,), K=70, N=33, group_size=32)
    model = op_model(problem)
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(model, path)
    expected = run(open_session(model), problem.x)

    def check(program: Path, *where: Path) -> None:
        environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, where))}
        done = call(program, path, 3, problem.K, problem.N, input=problem.x.tobytes(), env=environment)
        assert done.stderr.decode().split() == [VERSION]
        np.testing.assert_array_equal(np.frombuffer(done.stdout, np.float32).reshape(expected.shape), expected)

    return check


@pytest.mark.parametrize("kind", ["shared", "static"])
def test_a_project_of_somebody_else_finds_it_by_cmake(by_cmake, libraries, answers, kind):
    answers(by_cmake / kind, libraries)


@pytest.mark.parametrize(
    ("name", "how"), [("dualbinary", ()), ("dualbinary-static", ("-DBY_NAME", "-Wl,--gc-sections"))]
)
def test_and_by_pkg_config(tmp_path, package, libraries, headers, answers, name, how):
    if shutil.which("pkg-config") is None:
        pytest.skip("pkg-config was not found: install the Debian package pkg-config")
    environment = {**os.environ, "PKG_CONFIG_PATH": str(package / "lib" / "pkgconfig")}
    flags = call("pkg-config", "--cflags", "--libs", name, env=environment).stdout.decode().split()
    sources = [OUTSIDE / "main.c", f"-I{headers}", *how]
    call("cc", *sources, "-o", tmp_path / "outside", *flags, f"-L{libraries}", "-lonnxruntime")

    answers(tmp_path / "outside", libraries, package / "lib")


def test_a_static_program_keeps_one_symbol_of_ours(by_cmake):
    listing = call("nm", "--dynamic", "--defined-only", "--format=posix", by_cmake / "static").stdout.decode()
    ours = {name for line in listing.splitlines() if "ualBinary" in (name := line.split()[0])}
    assert ours == {SYMBOL}


@pytest.mark.parametrize(("wanted", "found"), [("0.1", True), ("0.0.9", False), ("1.0", False)])
def test_find_package_holds_to_the_version(tmp_path, package, wanted, found):
    (tmp_path / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.24)\nproject(p NONE)\nfind_package(dualbinary {wanted} CONFIG REQUIRED)\n"
    )
    command = ["cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={package}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ("compatible with requested version" not in done.stderr) == found
