"""ONNX Runtime's C# interface, compiled here: Mono's compiler, .NET's runtime from PyPI, sources from npm.

Mono's compiler knows C# up to 7; a few newer forms in Microsoft's sources are written in older ones for it. Where the
SDK of .NET is installed, `dotnet run` does all this (examples/csharp).
"""

import json
import re
import shutil
import sys
from pathlib import Path

from tools.foreign.command import call, tool
from tools.foreign.unity import unity_package

__all__ = ["RUNTIME_VERSION", "compiled", "dotnet", "managed_interface"]

RUNTIME = "dotnetcore2==3.1.23"
RUNTIME_VERSION = "3.1.23"
REFERENCES = [
    "System.Private.CoreLib",
    "System.Runtime",
    "System.Runtime.Extensions",
    "System.Runtime.InteropServices",
    "System.Runtime.InteropServices.RuntimeInformation",
    "System.Memory",
    "System.Collections",
    "System.Linq",
    "System.Console",
    "System.Diagnostics.Debug",
    "System.Threading",
    "System.Buffers",
    "System.Numerics.Vectors",
    "netstandard",
]
OLDER_FORMS = (
    (r"\busing var ", "var "),
    (r"\(static (\w+) =>", r"(\1 =>"),
    (r"(DisposableList<OrtValue>) (\w+) = new\(", r"\1 \2 = new \1("),
    (r"where (\w+) : unmanaged", r"where \1 : struct"),
    (r"if \(([\w.]+) is not (\w+)\)", r"if (!(\1 is \2))"),
    (r"(?m)^(\s*)([A-Za-z.]+\.Span)\[(\w+)\] = ([^;]*);", r"\1\2.Slice(\3, 1).Fill(\4);"),
    (r"(\w+)\[0\] = (\w+)\[1\] = (\w+);", r"\1[0] = \3; \2[1] = \3;"),
)


def dotnet(work: Path) -> Path:
    """The program `dotnet` of .NET's runtime, downloaded once (31 MB)."""
    home = work / f"dotnet-{RUNTIME_VERSION}"
    if not home.is_dir():
        partial = home.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        call(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", f"--target={partial}", RUNTIME)
        program = partial / "dotnetcore2" / "bin" / "dotnet"
        program.chmod(program.stat().st_mode | 0o111)
        partial.rename(home)
    return home / "dotnetcore2" / "bin" / "dotnet"


def compiled(program: Path, sources: list[Path], runtime: Path, options: list[str]) -> None:
    """Compile `sources` to `program`, a .dll, against .NET's runtime, with what `runtime` needs to start it beside."""
    compiler = tool("mcs", "install the Debian package mono-mcs")
    framework = runtime.parent / "shared" / "Microsoft.NETCore.App" / RUNTIME_VERSION
    references = [f"-r:{framework / name}.dll" for name in REFERENCES]
    fixed = ["-nostdlib", "-noconfig", "-unsafe", "-warn:0", f"-out:{program}"]
    call(compiler, *fixed, *options, *references, *sources)
    settings = {
        "tfm": "netcoreapp3.1",
        "framework": {"name": "Microsoft.NETCore.App", "version": RUNTIME_VERSION},
        "configProperties": {"System.Globalization.Invariant": True},  # else it wants ICU's libraries
    }
    program.with_suffix(".runtimeconfig.json").write_text(json.dumps({"runtimeOptions": settings}))


def managed_interface(work: Path, runtime: Path) -> Path:
    """Microsoft.ML.OnnxRuntime.dll, compiled once."""
    directory = work / "csharp"
    done = directory / "Microsoft.ML.OnnxRuntime.dll"
    if done.is_file():
        return done
    sources = []
    package = unity_package(work) / "csharp"
    for source in sorted(package.rglob("*.cs")):
        if source.parent.name == "Training":
            continue
        text = source.read_text(encoding="utf-8-sig")
        for newer, older in OLDER_FORMS:
            text = re.sub(newer, older, text)
        sources.append(directory / "sources" / source.relative_to(package))
        sources[-1].parent.mkdir(parents=True, exist_ok=True)
        sources[-1].write_text(text)
    partial = directory / "partial" / done.name  # an assembly has the name of its file
    partial.parent.mkdir(exist_ok=True)
    options = ["-langversion:experimental", "-target:library", "-d:NETSTANDARD2_0"]
    compiled(partial, sources, runtime, options)
    partial.rename(done)
    return done
