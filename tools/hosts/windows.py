"""Windows on x86-64 by wine: the C++ example and the library of the wheel, with ONNX Runtime's own DLL."""

import shutil
from pathlib import Path

from dualbinary import InputError
from dualbinary.bundle import bundled_libraries
from tools.hosts.task import NotHereError, Task
from tools.wheels.environment import ROOT, zig
from tools.wheels.foreign import NotHereError as MissingError
from tools.wheels.foreign import compiled, run, runner, windows_onnxruntime
from tools.wheels.targets import targets

__all__ = ["NAME", "tokens"]

NAME = "Windows x64 (wine), C++"
_HEADERS = "onnxruntime-headers-*"


def tokens(task: Task) -> list[int]:
    """Return the `count` new token ids. Raises NotHereError where wine or the wheel is missing."""
    (target,) = targets(["windows-x64"])
    folder = task.work / "windows"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        before = runner(target)
        (library,) = bundled_libraries([target.of], [ROOT / "dist"])
        runtime = windows_onnxruntime(folder)
    except (MissingError, InputError) as error:
        raise NotHereError(str(error)) from error
    (folder / library.system.installed_file).write_bytes(library.content)
    shutil.copyfile(runtime, folder / runtime.name)
    program = folder / "main.exe"
    if not program.is_file():
        _compile(folder)
    words = [str(task.count), *map(str, task.prompt_ids)]
    # wine's drive Z: is the root of this machine.
    model, ours = (f"Z:{path.resolve()}" for path in (task.model, folder / library.system.installed_file))
    return [int(word) for word in run([*before, program, model, ours, *words], folder).split()]


def _compile(folder: Path) -> None:
    """The example for Windows, linked against the one function that ONNX Runtime's DLL is entered by."""
    (target,) = targets(["windows-x64"])
    definition = folder / "onnxruntime.def"
    definition.write_text("LIBRARY onnxruntime.dll\nEXPORTS\nOrtGetApiBase\n")
    imports = folder / "libonnxruntime.a"
    run([zig(), "dlltool", "-m", "i386:x86-64", "-d", definition, "-l", imports], folder)
    headers = sorted((Path.home() / ".cache" / "dualbinary").glob(_HEADERS))
    if not headers:
        raise NotHereError("ONNX Runtime's C headers are not in the cache: `make setup` fetches them")
    host = ROOT / "examples" / "cpp_host"
    rest = sorted({*host.glob("*.cc")} - {host / "main.cc"})
    compiled(host / "main.cc", target, folder, *rest, f"-I{headers[-1]}", imports)
