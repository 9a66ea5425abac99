"""Libraries of other systems beside a model."""

import json
import platform

import pytest

from dualbinary import InputError
from dualbinary.bundle import bundled_libraries, write_libraries
from dualbinary.bundle.__main__ import main
from dualbinary.files.model_files import OPTIONAL_FILES
from dualbinary.files.shared_library import missing_bytes, system_of_library
from dualbinary.files.systems import SYSTEMS, named_systems, this_system
from tests.support.wheels import library_bytes, make_wheel

NAMES = [system.name for system in SYSTEMS]


@pytest.fixture
def wheels(tmp_path):
    """A folder with a wheel for each system."""
    for system in SYSTEMS:
        make_wheel(tmp_path / "dist", system)
    return tmp_path / "dist"


@pytest.fixture
def model(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.onnx").write_bytes(b"a model")
    return tmp_path / "out"


@pytest.mark.parametrize("system", SYSTEMS, ids=NAMES)
def test_a_library_is_known_by_its_bytes(system):
    assert system_of_library(library_bytes(system)) == system


@pytest.mark.parametrize("content", [b"", b"MZ", b"\x7fELF", b"\x7fELF\x02\x01", b"hello", b"MZ" + bytes(62)])
def test_what_is_no_library_is_none(content):
    assert system_of_library(content) is None


def test_a_linux_library_knows_how_long_it_is():
    content = bytearray(library_bytes(SYSTEMS[0]))
    content[40:48], content[58:62] = (1000).to_bytes(8, "little"), b"\x40\x00\x02\x00"  # two sections of 64 bytes
    assert missing_bytes(bytes(content), 1128) == 0
    assert missing_bytes(bytes(content), 1000) == 128


def test_names_are_those_of_the_table_and_what_dotnet_calls_the_same():
    assert named_systems(["all"]) == SYSTEMS
    assert [each.name for each in named_systems(["win-x64", "osx-arm64", "linux-x64"])] == [
        "linux-x64",
        "windows-x64",
        "macos-arm64",
    ]
    with pytest.raises(InputError, match=r"amiga: expected a system, one of linux-x64, .*, or all"):
        named_systems(["amiga"])


def test_this_machine_is_one_of_them():
    system = this_system()
    assert system is not None
    assert system.name.endswith({"x86_64": "x64", "aarch64": "arm64"}[platform.machine()])
    assert system.file in OPTIONAL_FILES


@pytest.mark.parametrize("tag", ["manylinux_2_17_x86_64.manylinux2014_x86_64", "manylinux_2_28_x86_64"])
def test_a_wheel_belongs_to_one_system(tag):
    assert [system.name for system in SYSTEMS if system.fits(tag)] == ["linux-x64"]


def test_the_command_lays_each_library_beside_the_model_under_its_own_name(model, wheels, capsys):
    assert main([str(model / "model.onnx"), "--systems", "all", "--from", str(wheels), "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["libraries"]
    assert files == {system.name: system.file for system in SYSTEMS}
    for system in SYSTEMS:
        assert (model / system.file).read_bytes() == library_bytes(system)
    assert len(list(model.iterdir())) == 1 + len(SYSTEMS)


def test_one_bundle_is_made_of_another(model, wheels, tmp_path):
    write_libraries(bundled_libraries(SYSTEMS, [wheels]), model)
    again = bundled_libraries(named_systems(["windows-arm64"]), [model])
    assert again[0].content == library_bytes(again[0].system)


def test_what_is_missing_is_named_with_the_line_that_fetches_it(model, wheels, capsys):
    for wheel in wheels.glob("*win*"):
        wheel.unlink()
    assert main([str(model), "--systems", "linux-x64,windows-x64,windows-arm64", "--from", str(wheels)]) == 2
    error = capsys.readouterr().err
    assert "windows-x64, windows-arm64: no library in" in error
    assert "--platform win_amd64" in error
    assert "make wheels" in error
    assert [path.name for path in model.iterdir()] == ["model.onnx"]  # nothing, not even the one that was there


def test_this_system_takes_the_installed_library_where_no_wheel_has_it(tmp_path):
    here = this_system()
    assert here is not None
    installed = tmp_path / here.installed_file
    installed.write_bytes(library_bytes(here))
    assert bundled_libraries([here], [tmp_path / "dist"], installed)[0].source == installed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (library_bytes(SYSTEMS[0], "0123456789abcdef"), "got one of another; take the wheel of version"),
        (library_bytes(SYSTEMS[1]), "expected a library for linux-x64, got one for linux-arm64"),
        (b"hello", "expected a library for linux-x64, got no library of a known system"),
    ],
)
def test_a_library_that_does_not_fit_is_refused(tmp_path, content, message):
    make_wheel(tmp_path, SYSTEMS[0], content)
    with pytest.raises(InputError, match=message):
        bundled_libraries(SYSTEMS[:1], [tmp_path])


def test_a_damaged_wheel_is_refused(tmp_path):
    make_wheel(tmp_path, SYSTEMS[0]).write_bytes(b"cut off")
    with pytest.raises(
        InputError, match=r"expected a wheel with runtime_ext/libdualbinary\.so .*fetch or build it again"
    ):
        bundled_libraries(SYSTEMS[:1], [tmp_path])


def test_a_folder_without_a_model_is_refused(tmp_path, wheels, capsys):
    assert main([str(wheels), "--systems", "all", "--from", str(wheels)]) == 2
    assert "expected the folder of an exported model" in capsys.readouterr().err
