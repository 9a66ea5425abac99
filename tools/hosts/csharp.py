"""examples/csharp: a program in C# over ONNX Runtime's C# interface."""

import shutil
from pathlib import Path

import runtime_ext
from tools.foreign.command import arguments, call, library_directory, tool
from tools.foreign.dotnet import compiled, dotnet, managed_interface
from tools.hosts.task import Task

NAME = "C# (examples/csharp)"
SOURCE = Path(__file__).resolve().parents[2] / "examples" / "csharp" / "Generate.cs"


def tokens(task: Task) -> list[int]:
    """Compile the example and run it."""
    tool("mcs", "install the Debian package mono-mcs")  # before anything is downloaded
    runtime = dotnet(task.work)
    interface = managed_interface(task.work, runtime)
    program = task.work / "csharp" / "program" / "Generate.dll"
    program.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(interface, program.parent)
    compiled(program, [SOURCE], runtime, ["-langversion:7.2", "-target:exe", f"-r:{interface}"])
    where = {"LD_LIBRARY_PATH": str(library_directory(task.work))}
    answer = call(runtime, "exec", program, *arguments(task, runtime_ext.library_path()), environment=where)
    return [int(word) for word in answer.split()]
