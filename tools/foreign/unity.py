"""ONNX Runtime's own parts for Android and .NET, out of its package for Unity in the npm registry.

It is the package whose headers the C++ build takes (runtime_ext/cmake/onnxruntime_headers.cmake). Maven's and NuGet's
packages hold the same files; they are what a user takes.
"""

import hashlib
import shutil
import tarfile
import zipfile
from pathlib import Path

from tools.foreign.command import call, tool
from tools.hosts.task import NotHereError

__all__ = ["ORT_VERSION", "unity_package"]

NAME, VERSION = "com.github.asus4.onnxruntime", "0.4.9"
SHA256 = "e59788788818fdde1b2e522e766a21ba0f7d8391de55737abf81e32cc801785d"
ORT_VERSION = "1.29.0"  # inside
WANTED = ("package/Runtime/", "package/Plugins/Android/")


def unity_package(work: Path) -> Path:
    """A directory with `csharp/`, the managed sources, and `aar/`, Android's archive; downloaded once (143 MiB)."""
    done = work / f"unity-{VERSION}"
    if done.is_dir():
        return done
    partial = done.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    call(tool("npm", "install Node.js"), "pack", "--silent", f"{NAME}@{VERSION}", cwd=partial)
    archive = partial / f"{NAME}-{VERSION}.tgz"
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise NotHereError(f"{NAME}@{VERSION} has SHA-256 {digest}, expected {SHA256}")
    with tarfile.open(archive) as tar:
        tar.extractall(partial, (item for item in tar if item.name.startswith(WANTED)), filter="data")
    archive.unlink()
    (partial / "package" / "Runtime").rename(partial / "csharp")
    with zipfile.ZipFile(partial / "package" / "Plugins" / "Android" / "onnxruntime.aar") as aar:
        aar.extractall(partial / "aar")
    shutil.rmtree(partial / "package")
    partial.rename(done)
    return done
