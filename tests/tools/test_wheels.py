"""The table of targets, the checks of a wheel, and the wheel of this machine in an environment of its own."""

import os
import re
import subprocess
import sys
import venv
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

import runtime_ext
from dualbinary import DualBinaryError
from dualbinary.files.systems import SYSTEMS
from exporter.options import ExportOptions
from exporter.pipeline import export
from tests.support.tiny_models import make_model
from tests.support.tiny_sessions import make_tokenizer
from tests.support.wheels import here
from tools.wheels.check import check_wheel
from tools.wheels.library_facts import library_facts
from tools.wheels.targets import targets

ROOT = Path(__file__).resolve().parents[2]
TARGETS = targets()
PROMPT = (72, 101, 108, 108, 111)


def test_every_system_has_a_target_with_its_own_tag_and_triple():
    assert [target.of for target in TARGETS] == list(SYSTEMS)
    assert len({target.triple for target in TARGETS}) == len({target.platform for target in TARGETS}) == len(SYSTEMS)
    for target in TARGETS:
        assert [system for system in SYSTEMS if system.fits(target.platform)] == [target.of]
        promised = re.search(r"\.([\d.]+)$", target.triple)
        if promised:  # glibc or macOS; the tag says the same version
            assert promised[1].replace(".", "_") in target.platform


def test_the_library_here_is_read_as_what_it_is():
    facts = library_facts(runtime_ext.library_path())
    assert f"{facts.os}-{facts.machine}" == here().name.replace("musl-", "")
    assert "RegisterCustomOps" in facts.exports
    assert not facts.paths


@pytest.mark.parametrize(
    ("extra", "target", "message"),
    [
        ({"runtime_ext/src/core/a.cc": ""}, {}, "runtime_ext/src/core/a.cc does not belong into a wheel"),
        ({"runtime_ext/libstdc++.so.6": ""}, {}, r"runtime_ext/libstdc\+\+.so.6 does not belong"),
        ({}, {"platform": "win_amd64"}, "expected a name that ends in py3-none-win_amd64"),
        ({}, {"triple": "x86_64-linux-gnu.2.3"}, r"asks for glibc 2\.\d+, the tag promises 2\.3"),
    ],
)
def test_a_wheel_that_is_not_as_it_must_be_is_refused_by_name(tmp_path, monkeypatch, extra, target, message):
    (own,) = targets([here().name])
    monkeypatch.setattr("tools.wheels.check.granted_tags", lambda wheel: [*own.platform.split(".")])
    wheel = tmp_path / f"dualbinary-0.1.0-{own.tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(runtime_ext.library_path(), f"runtime_ext/{own.of.installed_file}")
        for name, text in extra.items():
            archive.writestr(name, text)
    with pytest.raises(DualBinaryError, match=message):
        check_wheel(wheel, replace(own, **target))


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of a fresh environment with the wheel that pip builds of this checkout, and its dependencies alone."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "runtime_ext/libdualbinary.so" in names
    assert not [name for name in names if re.search(r"\.(cc|o|cmake)$", name)]
    venv.create(folder / "environment", symlinks=True)  # this Python's pip installs; another one would take seconds
    python = folder / "environment" / "bin" / "python"
    pip("--python", python, "install", "--no-compile", "-c", ROOT / "constraints.txt", wheel)
    return python


def pip(*words):
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *words]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    weights = make_model("llama", tmp_path_factory.mktemp("weights") / "llama")
    make_tokenizer().save(str(weights / "tokenizer.json"))
    out = tmp_path_factory.mktemp("exported") / "model.onnx"
    export(weights, out, ExportOptions(planes=2))
    return out


def isolated(python, *arguments):
    """A command of the fresh environment, in a folder of its own; -I leaves out every path of this checkout."""
    return subprocess.run([python, "-I", *arguments], cwd=python.parent, capture_output=True, text=True, check=False)


def test_the_wheel_needs_nothing_but_its_dependencies(python):
    code = "import importlib.util as u, sys, runtime_ext; print(runtime_ext.__file__, *sys.path, sep='\\n'); "
    code += (
        "sys.exit(any(map(u.find_spec, ('torch', 'onnx', 'transformers', 'cmake'))) or 'onnxruntime' in sys.modules)"
    )
    done = isolated(python, "-c", code)
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(ROOT) not in done.stdout


def test_the_wheel_gives_the_tokens_of_the_checkout(python, model, tmp_path):
    from tools.hosts import wheel as host

    words = [sys.executable, "-c", host.PROGRAM, str(model), "8", *map(str, PROMPT)]
    expected = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    done = isolated(python, "-c", host.PROGRAM, str(model), "8", *map(str, PROMPT))
    assert done.stdout.split() == expected, done.stderr
    assert len(expected) == 8


def test_the_wheels_doctor_finds_nothing_wrong(python, model):
    done = isolated(python, "-m", "runtime_ext", "doctor", str(model))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{python.parent.parent}" in done.stdout  # its own library
