"""Hosts that are set up wrongly: each gets one sentence that names the way out, and the page has it word for word.

The table is that of docs/troubleshooting.md; here is how each of its setups comes about.
"""

import importlib.util
import re
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

import runtime_ext
from dualbinary.contract.schema import digest
from dualbinary.onnx_files.relayout.convert import relayout
from exporter.options import ExportOptions
from exporter.pipeline import export
from runtime_ext import library
from runtime_ext.doctor import machine
from runtime_ext.doctor.command import diagnose
from runtime_ext.doctor.findings import GOOD
from tests.support.tiny_models import make_model
from tests.support.tiny_sessions import make_tokenizer
from tests.support.wheels import here

PAGE = Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md"
SECTION = re.search(r"(?ms)^## A host that is set up wrongly\n(.*?)^## ", PAGE.read_text(encoding="utf-8"))
ROWS = dict(re.findall(r"(?m)^\| ([^|]+?) \| `` (.*) `` \|$", SECTION[1] if SECTION else ""))
OTHER_ISA = "i8mm" if "avx" in str(runtime_ext.describe()["cpu_features"]) else "avx2"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


class Host:
    """A machine and a folder with a model, to be set up wrongly. `asked` is what the doctor is asked about."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.model = self.asked = folder / "model.onnx"
        self.data = folder / "model.onnx.data"
        self.folder, self.provider, self._patch = folder, "cpu", monkeypatch

    def variable(self, name: str, value: object) -> None:
        self._patch.setenv(name, str(value))

    def patch(self, owner: object, name: str, value: object) -> None:
        self._patch.setattr(owner, name, value)

    def module(self, name: str, value: object) -> None:
        self._patch.setitem(sys.modules, name, value)

    def forget(self, name: str) -> None:
        self._patch.delitem(sys.modules, name, raising=False)

    def library(self, content: bytes) -> Path:
        path = self.folder / "other.so"
        path.write_bytes(content)
        self.variable(library.LIBRARY_VARIABLE, path)
        return path

    def onnx(self, change: Callable[[onnx.ModelProto], None]) -> None:
        model = onnx.load(self.model, load_external_data=False)
        change(model)
        onnx.save(model, self.model)


def own() -> bytes:
    return runtime_ext.library_path().read_bytes()


def no_library(host):
    empty = host.folder / "nothing"
    host.patch(runtime_ext, "__path__", [str(empty)])
    host.patch(library.site, "getsitepackages", list)
    host.patch(library.site, "getusersitepackages", lambda: str(empty))
    host.patch(library.sysconfig, "get_path", lambda _: str(empty))


def for_arm(host):
    other = {62: 183, 183: 62}[struct.unpack_from("<H", own(), 18)[0]]
    host.library(own()[:18] + struct.pack("<H", other) + own()[20:])


def for_windows(host):
    host.library(b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0" + struct.pack("<H", 0x8664) + bytes(64))


def foreign(host):
    found = importlib.util.find_spec("_ctypes")
    assert found is not None and found.origin is not None
    host.variable(library.LIBRARY_VARIABLE, found.origin)


def unreadable(host):
    path, read = host.library(own()), Path.read_bytes

    def refuse(self):
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return read(self)

    host.patch(Path, "read_bytes", refuse)


def two_builds(host):
    class Distribution:
        def __init__(self, name):
            self.name = name

    host.patch(machine, "distributions", lambda: map(Distribution, ("numpy", "onnxruntime", "onnxruntime-gpu")))


def asks(host, path):
    host.asked = path


def model_directory(host):
    folder = host.folder / "hub"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    host.asked = folder


def data_is_a_folder(host):
    host.data.unlink()
    host.data.mkdir()


def opset(model):
    next(each for each in model.opset_import if not each.domain).version = 99


def no_functions(host):
    host.onnx(lambda model: model.ClearField("functions"))
    no_library(host)


def other_layout(host):
    host.asked = host.folder / "other" / "model.onnx"
    relayout(host.model, host.asked, "neon" if OTHER_ISA == "i8mm" else "avx2")


def no_decoder(host):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [result])
    onnx.save(
        onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 21)]), host.model
    )


def no_tokenizers(host):
    host.module("tokenizers", None)
    host.forget("runtime_ext.text")  # which was imported with it


def named_library(host, text="libdualbinary.so"):
    path = host.folder / "genai_config.json"
    named = f'"session_options": {{"custom_ops_library": "{text}",'
    path.write_text(path.read_text().replace('"session_options": {', named))


def linked_library(host):
    named_library(host)
    (host.folder / "libdualbinary.so").symlink_to(runtime_ext.library_path())


def stale(host):
    (host.folder / here().installed_file).write_bytes(own().replace(digest().encode(), b"0123456789abcdef"))


def mixed_up(host):
    other = next(file for file in ("libdualbinary-linux-arm64.so", "libdualbinary-linux-x64.so") if file != here().file)
    (host.folder / other).write_bytes(own())


SETUPS = {
    "the package was installed without a library": no_library,
    "the variable `DUALBINARY_LIBRARY` leads nowhere": lambda host: host.variable(
        library.LIBRARY_VARIABLE, host.folder / "no.so"
    ),
    "the variable `DUALBINARY_LIBRARY` names a folder": lambda host: host.variable(
        library.LIBRARY_VARIABLE, host.folder
    ),
    "the library is some other file": lambda host: host.library(b"hello"),
    "the library is empty": lambda host: host.library(b""),
    "the library was cut off": lambda host: host.library(own()[:-200]),
    "the library may not be read": unreadable,
    "the library is for Windows": for_windows,
    "the library is for another architecture": for_arm,
    "the library is for musl": lambda host: host.library(own().replace(b"libc.so.6", b"libc.so.m")),
    "the library was built on a newer Linux": lambda host: host.library(own().replace(b"GLIBC_2.14", b"GLIBC_9.99")),
    "the library is another one": foreign,
    "the library is of another version": lambda host: host.library(
        own().replace(digest().encode(), b"0123456789abcdef")
    ),
    "the variable `DUALBINARY_ISA` is no instruction set": lambda host: host.variable(library.ISA_VARIABLE, "mmx"),
    "the variable `DUALBINARY_ISA` is one that the processor lacks": lambda host: host.variable(
        library.ISA_VARIABLE, OTHER_ISA
    ),
    "the variable `DUALBINARY_ISA` slows the kernels down": lambda host: host.variable(library.ISA_VARIABLE, "scalar"),
    "ONNX Runtime is missing": lambda host: host.module("onnxruntime", None),
    "ONNX Runtime is too old": lambda host: host.patch(ort, "__version__", "1.16.3"),
    "ONNX Runtime is newer than any that was tested": lambda host: host.patch(ort, "__version__", "1.99.0"),
    "two builds of ONNX Runtime are installed": two_builds,
    "a GPU is asked of the build for CPUs": lambda host: setattr(host, "provider", "cuda"),
    "there is no model": lambda host: asks(host, host.folder / "other.onnx"),
    "the folder is given in place of the model": lambda host: asks(host, host.folder),
    "a model directory is given, which was not exported": model_directory,
    "a folder without a model is given": lambda host: asks(
        host, Path(host.folder / "none").mkdir() or host.folder / "none"
    ),
    "the model is empty": lambda host: host.model.write_bytes(b""),
    "the model was cut off": lambda host: host.model.write_bytes(host.model.read_bytes()[:5000]),
    "the model is a pointer of Git LFS": lambda host: host.model.write_bytes(LFS),
    "the model is a GGUF file": lambda host: host.model.write_bytes(b"GGUF" + bytes(100)),
    "the model is a safetensors file": lambda host: host.model.write_bytes(
        struct.pack("<Q", 20) + b'{"__metadata__": {}}'
    ),
    "the model is a web page": lambda host: host.model.write_bytes(b"\n<!DOCTYPE html><html>404</html>"),
    "the model is an archive": lambda host: host.model.write_bytes(b"PK\x03\x04" + bytes(100)),
    "the data file is missing": lambda host: host.data.unlink(),
    "the data file has another name": lambda host: host.data.rename(host.folder / "weights.data"),
    "the data file was cut off": lambda host: host.data.write_bytes(host.data.read_bytes()[:1000]),
    "the data file is a pointer of Git LFS": lambda host: host.data.write_bytes(LFS),
    "the data file is a folder": data_is_a_folder,
    "the model is for a newer ONNX Runtime": lambda host: host.onnx(opset),
    "the model is of a newer ONNX": lambda host: host.onnx(lambda model: setattr(model, "ir_version", 99)),
    "the model is stored for another processor": other_layout,
    "the model has no function, and there is no library": no_functions,
    "the model is no decoder": no_decoder,
    "the package tokenizers is missing": no_tokenizers,
    "the tokenizer is missing": lambda host: (host.folder / "tokenizer.json").unlink(),
    "the tokenizer is damaged": lambda host: (host.folder / "tokenizer.json").write_text("{}"),
    "genai_config.json is damaged": lambda host: (host.folder / "genai_config.json").write_text("{"),
    "genai_config.json is missing": lambda host: (host.folder / "genai_config.json").unlink(),
    "genai_config.json names a library that is not there": named_library,
    "genai_config.json names a library behind a link": linked_library,
    "the library beside the model is of another version": stale,
    "the library beside the model is under a wrong name": mixed_up,
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A tiny exported model with all that belongs to it, not to be changed."""
    weights = make_model("llama", tmp_path_factory.mktemp("weights") / "llama")
    make_tokenizer().save(str(weights / "tokenizer.json"))
    out = tmp_path_factory.mktemp("exported") / "model.onnx"
    export(weights, out, ExportOptions(planes=2))
    return out.parent


@pytest.fixture
def host(exported, tmp_path, monkeypatch):
    for name in (library.LIBRARY_VARIABLE, library.ISA_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return Host(Path(shutil.copytree(exported, tmp_path / "out")), monkeypatch)


def test_a_host_that_is_set_up_rightly_has_nothing_wrong(host):
    findings = list(diagnose(host.asked))
    checks = [
        "onnxruntime",
        "library",
        "contract",
        "kernels",
        "file",
        "load",
        "tokenizer",
        "configuration",
        "libraries",
    ]
    assert [finding.check for finding in findings] == checks
    assert {finding.state for finding in findings[:-1]} == {GOOD}  # the last says that no library lies beside the model


def test_the_page_and_this_table_are_about_the_same_setups():
    assert list(ROWS) == list(SETUPS)
    assert len(SETUPS) >= 30


@pytest.mark.parametrize("setup", SETUPS)
def test_a_wrong_setup_gets_one_sentence_with_the_way_out(host, setup):
    SETUPS[setup](host)
    found = [finding for finding in diagnose(host.asked, host.provider) if finding.state != GOOD]
    message = re.escape(ROWS.get(setup, "")).replace("…", ".*")
    matching = [finding for finding in found if re.fullmatch(message, finding.text)]
    assert len(matching) == 1, "\n".join(finding.text for finding in found)
    assert "\n" not in matching[0].text
