"""What can be measured beside the full-precision model: checkpoints of it, other directories, exported ONNX files.

Each gives logits window by window, a few rows at a time, so that nothing spans [T, V] of more than one window. Those of
an ONNX file come from `python -m runtime_ext logits`, a child process, since packages stay apart.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from calib.losses import chunk_size
from calib.models.blocks import autocast
from calib.models.head import Head
from calib.models.loading import load_model
from calib.models.source import SourceModel, check_length
from calib.models.stored_checkpoint import StoredCheckpoint
from dualbinary import DualBinaryError, InputError
from dualbinary.checkpoint import CONFIG_FILE, read_quantization_config
from dualbinary.files.model_files import refuse_export_folder

__all__ = ["Bench", "Checkpoint", "Directory", "OnnxFile", "Subject", "open_subject"]

Logits = Callable[[Tensor], Iterator[Tensor]]
"""Of a window int64 [T]: rows [t, V] in turn, those that follow all its tokens but the last."""


@dataclass(frozen=True)
class Bench:
    """What subjects are measured on: device, type of products, and the full-precision model with its head."""

    source: SourceModel
    head: Head
    vocabulary: int
    device: str
    dtype: torch.dtype

    def hidden(self, window: Tensor) -> Tensor:
        """The hidden states [T - 1, H] behind all tokens of a window but the last, of whatever the model is now."""
        with autocast(self.device, self.dtype):
            model = self.source.model.base_model
            return model(input_ids=window[None], use_cache=False).last_hidden_state[0, :-1]


class Subject(Protocol):
    """A model to measure. `kind` is that of dualbinary.evaluation.figures; `shares` says it needs the source loaded."""

    path: Path
    kind: str
    shares: bool

    def opened(self, bench: Bench) -> Any:
        """A context with the model's Logits, and the torch model if there is one."""
        ...


def open_subject(path: Path) -> Subject:
    """The subject that a path names, its weights not read yet. Raises InputError for a path that is none."""
    if path.is_file():
        if path.suffix != ".onnx":
            raise InputError(f"{path}: expected a directory, or an exported model that ends in .onnx")
        return OnnxFile(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such checkpoint, model directory or .onnx file")
    if not (path / CONFIG_FILE).is_file():
        raise InputError(
            f"{path}: has no {CONFIG_FILE}; expected a checkpoint, a model directory, or an .onnx file in it"
        )
    refuse_export_folder(path)
    return Directory(path) if read_quantization_config(path) is None else Checkpoint(path)


class Checkpoint:
    """A checkpoint of calibration, put on the full-precision model that it was made from."""

    kind, shares = "checkpoint", True

    def __init__(self, path: Path) -> None:
        self.path, self._stored = path, StoredCheckpoint(path)

    @contextmanager
    def opened(self, bench: Bench) -> Iterator[tuple[Logits, Module | None]]:
        """See Subject. Raises InputError where it does not fit the model."""
        source = bench.source
        self._stored.apply(source)
        Module.to(source.model, bench.device)
        tables = [table for table in source.tables if table.heads]
        head = partial(bench.head, product=tables[0].product) if tables else bench.head
        rows = chunk_size(bench.vocabulary)

        def logits(window: Tensor) -> Iterator[Tensor]:
            for part in bench.hidden(window).split(rows):
                yield head(part)

        yield logits, source.model


class Directory:
    """Any directory that transformers opens: another full-precision model, or one that another tool quantized."""

    kind, shares = "directory", False

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def opened(self, bench: Bench) -> Iterator[tuple[Logits, Module | None]]:
        """See Subject. Raises InputError where transformers cannot open it, or its vocabulary has another size."""
        try:
            model = load_model(self.path)
        except Exception as error:  # whatever comes up in the code of an architecture or of a quantizer
            raise InputError(f"{self.path}: transformers cannot open it ({' '.join(str(error).split())})") from error
        model.eval()
        if not hasattr(model, "hf_device_map"):
            Module.to(model, bench.device)
        rows = chunk_size(bench.vocabulary)

        def logits(window: Tensor) -> Iterator[Tensor]:
            check_length(model, len(window))
            with autocast(bench.device, bench.dtype):
                found = model(input_ids=window[None], use_cache=False).logits[0, :-1]
            _check_width(self.path, found.shape[1], bench.vocabulary)
            yield from found.split(rows)

        yield logits, model


class OnnxFile:
    """An exported model, in ONNX Runtime with the library."""

    kind, shares = "onnx", False

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def opened(self, bench: Bench) -> Iterator[tuple[Logits, Module | None]]:
        """See Subject. Ends this process with the exit code of the child where that fails: it has said why."""
        command = [sys.executable, "-m", "runtime_ext", "logits", str(self.path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            try:
                assert child.stdin is not None and child.stdout is not None
                head = json.loads(child.stdout.readline() or _ended(child))
                _check_width(self.path, head["vocabulary"], bench.vocabulary)
                if head["logits_per_run"] == 1:
                    print(
                        f"{self.path}: gives the logits of the last token alone, so each token is a run of its own; an "
                        "export with --logits all is far faster to measure",
                        file=sys.stderr,
                    )
                yield partial(_ask, child, bench.vocabulary), None
                child.stdin.close()
            except BaseException:
                child.kill()
                raise


def _ask(child: "subprocess.Popen[bytes]", vocabulary: int, window: Tensor) -> Iterator[Tensor]:
    """Rows of logits of a window, as they come through the pipe."""
    assert child.stdin is not None and child.stdout is not None
    tokens = window[:-1].tolist()
    try:
        child.stdin.write(json.dumps(tokens).encode() + b"\n")
        child.stdin.flush()
    except BrokenPipeError:
        _ended(child)
    for begin in range(0, len(tokens), chunk_size(vocabulary)):
        rows = np.empty((min(chunk_size(vocabulary), len(tokens) - begin), vocabulary), np.float32)
        view = rows.data.cast("B")
        while len(view):
            view = view[child.stdout.readinto(view) or _ended(child) :]  # type: ignore[attr-defined]
        yield torch.from_numpy(rows).to(window.device)


def _ended(child: "subprocess.Popen[bytes]") -> Any:
    """Leave with the exit code of a child that has ended before its time. Raises DualBinaryError for a signal."""
    code = child.wait()
    if code <= 0:
        raise DualBinaryError(f"python -m runtime_ext logits ended early, by signal {-code}; is memory short?")
    sys.exit(code)


def _check_width(path: Path, width: int, vocabulary: int) -> None:
    if width != vocabulary:
        raise InputError(
            f"{path}: gives logits of {width} tokens, the full-precision model of {vocabulary}; models with other "
            "vocabularies cannot be compared token by token"
        )
