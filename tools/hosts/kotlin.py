"""examples/android: the decoder of the app, compiled by Kotlin's own compiler and run on this machine's JVM."""

import shutil
import tarfile
from pathlib import Path

import runtime_ext
from tools.foreign.command import arguments, call, tool
from tools.foreign.jvm import jvm
from tools.hosts.task import Task

NAME = "Kotlin (examples/android, on a JVM)"
SOURCES = Path(__file__).resolve().parents[2] / "examples/android/app/src/main/kotlin/dualbinary/example"
COMPILER, VERSION = "kotlin-compiler", "2.4.20"


def tokens(task: Task) -> list[int]:
    """Compile all but the activity, which needs Android's own classes, and run it."""
    machine = jvm(task.work)
    libraries = _compiler(task.work) / "lib"
    standard = libraries / "kotlin-stdlib.jar"
    classes = task.work / "kotlin"
    options = ["-no-stdlib", "-no-reflect", "-cp", f"{standard}:{machine.classes}", "-d", classes]
    sources = [SOURCES / "Decoder.kt", SOURCES / "Main.kt"]
    main = "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"
    call(machine.java, "-Xmx1g", "-cp", f"{libraries}/*", main, *options, *sources)
    answer = machine.run([standard, classes], "dualbinary.example.MainKt", arguments(task, runtime_ext.library_path()))
    return [int(word) for word in answer.split()]


def _compiler(work: Path) -> Path:
    """The compiler, downloaded once from npm (80 MB)."""
    done = work / f"{COMPILER}-{VERSION}"
    if not done.is_dir():
        partial = done.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        call(tool("npm", "install Node.js"), "pack", "--silent", f"{COMPILER}@{VERSION}", cwd=partial)
        with tarfile.open(partial / f"{COMPILER}-{VERSION}.tgz") as tar:
            tar.extractall(partial, filter="data")
        (partial / "package").rename(done)
        shutil.rmtree(partial)
    return done
