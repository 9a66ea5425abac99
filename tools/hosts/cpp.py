"""examples/cpp_host: a program in C++ that links ONNX Runtime."""

from pathlib import Path

import runtime_ext
from tools.foreign.command import arguments, call, library_directory, tool
from tools.hosts.task import Task

NAME = "C++ (examples/cpp_host)"
SOURCE = Path(__file__).resolve().parents[2] / "examples" / "cpp_host"


def tokens(task: Task) -> list[int]:
    """Build the example, if it is not built, and run it."""
    cmake = tool("cmake", "run make setup, or install CMake")
    build = task.work / "cpp_host"
    library = library_directory(task.work) / "libonnxruntime.so"
    call(cmake, "-S", SOURCE, "-B", build, f"-DONNXRUNTIME_LIBRARY={library.resolve()}")
    call(cmake, "--build", build)
    return [int(word) for word in call(build / "cpp_host", *arguments(task, runtime_ext.library_path())).split()]
