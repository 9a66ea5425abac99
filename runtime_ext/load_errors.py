"""Why a model does not load, in one sentence that names the way out: what ONNX Runtime says is written for its authors.

`check_model_file` looks at the file before there is a session, `explained` reads what ONNX Runtime says of it. Its
wording has been the same from 1.17 to 1.32; a message that is not known here is passed on.
"""

import re
from pathlib import Path

from dualbinary.contract.schema import ATTENTION, MLP, OP
from dualbinary.errors import InputError
from dualbinary.files.model_files import CONFIG_FILE
from dualbinary.onnx_files.external_data import check_external_data

__all__ = ["check_model_file", "explained", "first_line", "kind_of_file"]

_HEAD_BYTES = 64
_KINDS = (
    (b"version https://git-lfs", "a pointer of Git LFS in place of the file; `git lfs pull` in its folder fetches it"),
    (b"GGUF", "a GGUF file; `python -m exporter FILE OUT.onnx` makes an ONNX file of it"),
    (b"PK\x03\x04", "an archive; unpack it and give the ONNX file, or export the model if it is one of PyTorch"),
    (b"<", "a web page, which failed downloads leave; download the file again"),
)

_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Exception during initialization: )?")
# What ONNX Runtime says, and the sentence for it; {0} is the first group, {ort} the version here.
_UPGRADE = "`pip install --upgrade onnxruntime`"
_MEANINGS = (
    (
        r'External data path does not exist: "?([^"\n]+)',
        "its data file {0} is missing; copy both files together, under the names that they were exported with",
    ),
    (
        r"Random-access reads require a regular file: (\S+)",
        "{0} is a folder, expected the model's data file; copy that there",
    ),
    (
        r"External initializer: .* given file_length: (\d+) are out of bounds",
        "its data file has {0} bytes, less than it needs: cut off, or that of another model; copy it again",
    ),
    (
        r"(INVALID_PROTOBUF|No graph was found in the protobuf)",
        "it is cut off, damaged, or no ONNX file; copy it again and compare its size with the original's",
    ),
    (
        r"(Unsupported model IR version|Unknown model file format version|is under development and support for this)",
        f"it was made for a newer ONNX Runtime than {{ort}}; {_UPGRADE}",
    ),
    (
        rf"({OP.domain}[\w.]*:(?:{MLP.name}|{ATTENTION.name}))\(-?\d*\) is not a registered function/op",
        "it has {0} without a function in its place, so that the library alone runs it, in ONNX Runtime 1.24 or newer "
        "(here: {ort}); leave --no-library out, or export it without --fallback none",
    ),
    (
        rf"({OP.domain}[\w.]*:\w+)\(-?\d*\) is not a registered function/op",
        "it has {0} without a function in its place, so that the library alone runs it; leave --no-library out, or "
        "export it without --fallback none",
    ),
    (
        r"([\w.]+:\w+)\(-?\d*\) is not a registered function/op",
        f"ONNX Runtime {{ort}} has no operator {{0}}; {_UPGRADE}",
    ),
)


def check_model_file(path: Path) -> None:
    """Raise InputError where `path` is no file, begins as another kind of file does, or has data that are not its own.

    Those are data outside of its folder, or beyond the end of their file.
    """
    if path.is_dir():
        models = sorted(path.glob("*.onnx"))
        if models:
            raise InputError(f"{path}: a folder, expected the file of a model; give {models[0]}")
        if (path / CONFIG_FILE).is_file():
            raise InputError(f"{path}: a model directory; `python -m exporter {path} OUT.onnx` exports it")
        raise InputError(f"{path}: a folder without an .onnx file; give the file that the exporter wrote")
    if not path.is_file():
        raise InputError(f"{path}: no such file; `python -m exporter MODEL_DIR {path.name}` makes one")
    if kind := kind_of_file(path):
        raise InputError(f"{path}: expected an ONNX file, got {kind}")
    try:
        check_external_data(path)
    except InputError:
        if kind := _data_kind(path):
            raise InputError(f"{path}: {kind}") from None
        raise


def kind_of_file(path: Path) -> str:
    """What a file is instead of a model's, with the way out; empty where its beginning may be anything.

    Raises InputError where it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give this user the right to read it") from error
    if not head:
        return "an empty file; copy or export it again"
    if head[8:9] == b"{":  # the length of a header, and the header
        return "a safetensors file; `python -m exporter MODEL_DIR OUT.onnx` exports the directory that it is in"
    return next((kind for beginning, kind in _KINDS if head.lstrip().startswith(beginning)), "")


def explained(path: Path, error: Exception) -> InputError:
    """The error for a model that ONNX Runtime does not load."""
    import onnxruntime as ort  # late: a command that prints its help does without

    text = str(error)
    for pattern, meaning in _MEANINGS:
        if found := re.search(pattern, text):
            return InputError(f"{path}: {_data_kind(path) or meaning.format(found[1], ort=ort.__version__)}")
    return InputError(f"{path}: ONNX Runtime cannot load it: {_PREFIX.sub('', first_line(error))}")


def _data_kind(path: Path) -> str:
    data = path.with_name(f"{path.name}.data")
    kind = kind_of_file(data) if data.is_file() else ""
    return f"expected data in {data}, got {kind}" if kind else ""


def first_line(error: Exception) -> str:
    """The first line of what ONNX Runtime says, which appends where in its source it failed."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
