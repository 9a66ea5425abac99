"""The work directory of a run: what it has done so far, from which a killed run resumes.

OUT_DIR.work/
    run.json             the configuration and a fingerprint of model and data: another run must not resume here
    lock                 held by the running process
    <name>.safetensors   one result each, with a JSON object beside the tensors; there whole or not at all
    streams/             cached activations around the current block (calib.stages.activation_cache)

The metadata of a result hold a digest of its tensors, its object, its name and the run, so that neither a damaged file
nor one of another run passes for it:

    result   {"version": 2, "digest": "...", "object": {...}}
    json     the object alone, in results of version 1, which are read as they are
"""

import fcntl
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dualbinary import InputError
from dualbinary.files.atomic import move_into_place, write_text, writing
from dualbinary.files.json_objects import read_json_object

__all__ = ["WorkDirectory", "work_of"]

WORK_SUFFIX = ".work"
RUN_FILE = "run.json"
LOCK_FILE = "lock"
SUFFIX = ".safetensors"
METADATA, OLDER_METADATA = "result", "json"  # the one key of the files' metadata
VERSION = 2
DIGEST_BYTES = 32


def work_of(out_dir: Path) -> Path:
    """The work directory of the run that writes `out_dir`."""
    return out_dir.with_name(out_dir.name + WORK_SUFFIX)


class WorkDirectory:
    """A directory of finished results that belongs to one run; a context manager that holds its lock.

    Entering raises InputError where another process has the lock, or where the directory belongs to a run with another
    `identity` (a JSON object: configuration, fingerprints) and `fresh` is not set. A `reader` takes no lock and asks
    nothing: it belongs to a process that has the lock.
    """

    def __init__(self, path: Path, identity: dict[str, Any], *, fresh: bool = False, reader: bool = False) -> None:
        self.path, self._reader = path, reader
        self._identity = json.loads(json.dumps(identity))
        self._fresh = fresh
        self._lock: int | None = None

    def __enter__(self) -> "WorkDirectory":
        if self._reader:
            return self
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._take_lock(self._lock)
            self._claim()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def has(self, name: str) -> bool:
        """Say that the result `name` is done."""
        return self._file(name).is_file()

    def write_tensors(self, name: str, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Store the result `name`; it is there whole or not at all, whenever the process ends."""
        target = self._file(name)
        whole = {key: value.contiguous() for key, value in tensors.items()}
        metadata = json.loads(json.dumps(metadata))  # as it will be read
        stored = {"version": VERSION, "digest": self._digest(name, whole, metadata), "object": metadata}
        with writing(target.with_name(target.name + ".new"), remove=True) as aside, writing(target):
            save_file(whole, aside, {METADATA: json.dumps(stored)})
            move_into_place(aside, target)

    def read_tensors(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors and metadata of the result `name`. Raises InputError where it is damaged, or of another run."""
        file = self._file(name)
        try:
            with safetensors.safe_open(file, framework="pt") as opened:
                stored = opened.metadata() or {}
            tensors = load_file(file)
            if METADATA not in stored:
                return tensors, json.loads(stored[OLDER_METADATA])
            found = json.loads(stored[METADATA])
            version, digest, metadata = found["version"], found["digest"], found["object"]
        except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
            raise InputError(f"{file}: not a result of this tool ({error}); start over with --fresh") from None
        if version != VERSION:
            raise InputError(f"{file}: of version {version}, expected {VERSION}; start over with --fresh")
        if digest != self._digest(name, tensors, metadata):
            raise InputError(f"{file}: damaged, or of another run; start over with --fresh")
        return tensors, metadata

    def remove(self) -> None:
        """Remove the directory, once its results are elsewhere."""
        shutil.rmtree(self.path)

    def digest_key(self, name: str) -> bytes:
        """What the digest of anything called `name` in this run begins with."""
        return json.dumps([self._identity, name], sort_keys=True).encode()

    def _digest(self, name: str, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> str:
        digest = hashlib.blake2b(self.digest_key(name), digest_size=DIGEST_BYTES)
        digest.update(json.dumps(metadata, sort_keys=True).encode())
        for key, value in sorted(tensors.items()):
            digest.update(json.dumps([key, str(value.dtype), list(value.shape)]).encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _file(self, name: str) -> Path:
        return self.path / (name + SUFFIX)

    def _take_lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{self.path}: another run is at work here; wait for it or choose another OUT_DIR"
            ) from None

    def _claim(self) -> None:
        """Make the directory this run's, or find that it is."""
        file = self.path / RUN_FILE
        aside = file.with_name(file.name + ".new")
        entries = [entry for entry in self.path.iterdir() if entry.name not in (LOCK_FILE, file.name, aside.name)]
        if entries and not file.exists():
            raise InputError(
                f"{self.path}: holds {entries[0].name}, which no run put there; move it away, or choose another OUT_DIR"
            )
        # Without results there is nothing to protect: a run that failed at its data may come back with other data.
        if entries and not self._fresh:
            differing = _differences(_identity_in(file), self._identity)
            if differing:
                raise InputError(
                    f"{self.path}: belongs to a run that differs in {', '.join(differing)}; "
                    "start over with --fresh, or choose another OUT_DIR"
                )
            return
        for entry in entries:
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        write_text(file, json.dumps(self._identity, indent=2))

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)  # and with it the lock
            self._lock = None


def _identity_in(file: Path) -> dict[str, Any]:
    try:
        return read_json_object(file)
    except InputError as error:
        raise InputError(f"{error}; start over with --fresh") from None


def _differences(found: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the entries in which two JSON objects differ."""
    names: list[str] = []
    for key in sorted(found.keys() | wanted.keys()):
        left, right = found.get(key), wanted.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            names += _differences(left, right, f"{prefix}{key}.")
        elif left != right:
            names.append(prefix + key)
    return names
