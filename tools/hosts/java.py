"""examples/java: a program in Java over ONNX Runtime's Java interface."""

from pathlib import Path

import runtime_ext
from tools.foreign.command import arguments, call, tool
from tools.foreign.jvm import jvm
from tools.hosts.task import Task

NAME = "Java (examples/java)"
SOURCE = Path(__file__).resolve().parents[2] / "examples" / "java" / "Generate.java"


def tokens(task: Task) -> list[int]:
    """Compile the example and run it."""
    compiler = tool("javac", "install a JDK of 17 or newer (Debian: openjdk-17-jdk-headless)")
    machine = jvm(task.work)
    classes = task.work / "java"
    call(compiler, "-cp", machine.classes, "-d", classes, SOURCE)
    return [
        int(word) for word in machine.run([classes], "Generate", arguments(task, runtime_ext.library_path())).split()
    ]
