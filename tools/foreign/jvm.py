"""ONNX Runtime's Java interface on a Linux JVM, from its archive for Android.

No registry that this project uses has the jar for desktops. The classes are the same; the native glue between them and
ONNX Runtime is the one for Android on x86-64, which asks for a dozen functions of Android's libraries. Small libraries
of these names, from bionic.c, pass the calls on: to the C library, and to the ONNX Runtime of the installed wheel.
"""

import platform
from dataclasses import dataclass
from pathlib import Path

from tools.foreign.command import call, library_directory, tool
from tools.foreign.unity import ORT_VERSION, unity_package
from tools.hosts.task import NotHereError

__all__ = ["Jvm", "jvm"]

SOURCE = Path(__file__).with_name("bionic.c")
GLUE = "libonnxruntime4j_jni.so"


@dataclass(frozen=True)
class Jvm:
    """`classes` is the jar of ONNX Runtime; `run` starts a class with what it needs to find the native part."""

    java: str
    classes: Path
    native: Path

    def run(self, classpath: list[Path], main: str, arguments: list[str]) -> str:
        """The standard output of `main`."""
        path = ":".join(map(str, [self.classes, *classpath]))
        native = f"-Donnxruntime.native.path={self.native}"
        return call(self.java, native, "-cp", path, main, *arguments, environment={"LD_LIBRARY_PATH": str(self.native)})


def jvm(work: Path) -> Jvm:
    """A JVM with ONNX Runtime; what is built is kept in `work`."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise NotHereError("the native glue is used as it is for Android on x86-64: needs Linux on x86-64")
    java = tool("java", "install a JDK of 17 or newer (Debian: openjdk-17-jdk-headless)")
    package = unity_package(work)
    native = work / "jvm"
    native.mkdir(exist_ok=True)
    _compile("libc.so", native, ["-DLIBC", "-fno-builtin"], "LIBC")
    _compile("libdl.so", native, ["-DLIBDL"], "LIBC", "-ldl")
    _compile("libm.so", native, [], "LIBC")
    ort = library_directory(work) / "libonnxruntime.so.1"
    version = f"VERS_{ORT_VERSION}"
    _compile("libonnxruntime.so", native, [f'-DONNXRUNTIME="{version}"'], version, str(ort))
    for name, target in ((GLUE, package / "aar" / "jni" / "x86_64" / GLUE), ("libonnxruntime.so.1", ort.resolve())):
        (native / name).unlink(missing_ok=True)
        (native / name).symlink_to(target)
    return Jvm(java, package / "aar" / "classes.jar", native)


def _compile(name: str, directory: Path, defines: list[str], version: str, *libraries: str) -> None:
    """Compile bionic.c as the library `name`, whose functions have `version`."""
    script = directory / f"{name}.map"
    script.write_text(f"{version} {{ }};\n")
    compiler = tool("cc", "install a C compiler")
    link = [f"-Wl,--version-script={script}", f"-Wl,-soname,{name}", "-o", directory / name]
    call(compiler, "-w", "-shared", "-fPIC", *defines, SOURCE, *link, *libraries)
