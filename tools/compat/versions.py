"""The environments of other versions: one for each ONNX Runtime, and one for each Python."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.environments import Environment, newest_version

__all__ = ["ORT_VERSIONS", "PYTHONS", "Host", "NotHereError", "host_of_onnxruntime", "host_of_python"]

ORT_VERSIONS = ("1.20", "1.23", "1.24", "1.28", "newest")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
_PACKAGES = ("jinja2", "numpy", "tokenizers")


class NotHereError(Exception):
    """This machine lacks an interpreter; the message says where it was looked for."""


@dataclass(frozen=True)
class Host:
    """An environment that models run in; `python` makes it on first use."""

    name: str
    environment: Environment

    def python(self) -> Path:
        """Return its interpreter. Raises DualBinaryError where the packages cannot be installed."""
        return self.environment.python()


def host_of_onnxruntime(version: str, work: Path) -> Host:
    """The newest patch of `version`, such as "1.24", or of all for "newest", in the Python that runs."""
    found = newest_version("onnxruntime", "" if version == "newest" else version)
    folder = work.resolve() / f"onnxruntime-{found}"
    name = f"ONNX Runtime {found}" + (", newest" if version == "newest" else "")
    return Host(name, Environment(folder, (f"onnxruntime=={found}", *_PACKAGES)))


def host_of_python(version: str, work: Path) -> Host:
    """The newest ONNX Runtime in Python `version`, such as "3.13". Raises NotHereError where that is missing."""
    interpreter = _interpreter(version)
    found = newest_version("onnxruntime", python=version)
    folder = work.resolve() / f"python-{version}"
    packages = (f"onnxruntime=={found}", *_PACKAGES)
    return Host(f"Python {version}, ONNX Runtime {found}", Environment(folder, packages, interpreter=interpreter))


def _interpreter(version: str) -> Path:
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return Path(sys.executable)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    names = [*sorted(map(str, pyenv.glob(f"{version}.*/bin/python")), reverse=True), f"python{version}"]
    for name in names:  # what is on PATH may be a shim of pyenv, which only says that the version is not chosen
        path = shutil.which(name)
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return Path(path)
    raise NotHereError(f"no python{version} on PATH or in {pyenv}")
