"""What a wheel must be before anyone installs it, as far as it can be read off the file."""

import re
import subprocess
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from dualbinary import DualBinaryError
from dualbinary.contract.schema import digest
from tools.wheels.environment import environment
from tools.wheels.library_facts import LibraryFacts, library_facts
from tools.wheels.targets import Target

__all__ = ["EXPORTS", "WheelFacts", "check_wheel", "granted_tags"]

EXPORTS = ("RegisterCustomOps", "RegisterDualBinaryCustomOps", "dualbinary_")
"""What the names of exported symbols begin with."""

# What every system of a kind has. Windows 10 brings the C library of the names api-ms-win-crt.
_SYSTEM_LIBRARIES = {
    "linux": re.compile(r"lib(c|m|dl|pthread)\.so(\.\d+)?|ld-linux-(x86-64|aarch64)\.so\.\d"),
    "windows": re.compile(r"kernel32\.dll|ntdll\.dll|api-ms-win-(crt|core)-[a-z0-9-]+\.dll", re.IGNORECASE),
    "macos": re.compile(r"/usr/lib/libSystem\.B\.dylib"),
}
# zig's linker hides nothing of what the C++ library exports by itself: its operators new and delete, which call malloc
# and free as those of the system do (findings/zig_exported_symbols_list.sh).
_OF_MACOS = re.compile(r"_Zn[aw]|_Zd[al]|_mh_dylib_header$|__dso_handle$")
_UNWANTED = re.compile(r"(^|/)(src|cmake|__pycache__)/|\.(cc|cu|cuh|o|obj)$|(^|/)tests?/")


@dataclass(frozen=True)
class WheelFacts:
    """A checked wheel: its sizes in bytes, and its library."""

    file: Path
    bytes: int
    library_bytes: int
    library: LibraryFacts


def check_wheel(wheel: Path, target: Target) -> WheelFacts:
    """Read the wheel. Raises DualBinaryError that names all that is not as it must be."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        names = archive.namelist()
        inside = f"runtime_ext/{target.of.installed_file}"
        if inside not in names:
            raise DualBinaryError(f"{wheel}: expected {inside}, the wheel lacks it")
        library = Path(archive.extract(inside, folder))
        facts, content = library_facts(library), library.read_bytes()
    wrong = [*_wrong_files(names, inside), *_wrong_name(wheel, target), *_wrong_library(facts, target)]
    if digest().encode() not in content:
        wrong.append(f"the library was built from another contract than {digest()}")
    if target.of.wheel == "manylinux":
        wrong += _wrong_for_auditwheel(wheel, target)
    if wrong:
        raise DualBinaryError(f"{wheel.name}: {'; '.join(wrong)}")
    return WheelFacts(wheel, wheel.stat().st_size, len(content), facts)


def _wrong_files(names: list[str], library: str) -> list[str]:
    others = [name for name in names if re.search(r"\.(so|dll|dylib|a|lib|pdb)(\.|$)", name) and name != library]
    return [f"{name} does not belong into a wheel" for name in [*others, *filter(_UNWANTED.search, names)]]


def _wrong_name(wheel: Path, target: Target) -> list[str]:
    parts = set(wheel.stem.split("-")[-1].split("."))
    expected = set(target.platform.split("."))
    return [] if parts == expected else [f"expected a name that ends in {target.tag}"]


def _wrong_library(facts: LibraryFacts, target: Target) -> list[str]:
    wrong = []
    system, _, machine = target.of.name.partition("-")
    machine = machine.removeprefix("musl-")
    if (facts.os, facts.machine) != (system, machine):
        wrong.append(f"expected a library for {system} {machine}, got one for {facts.os} {facts.machine}")
    own = [name for name in facts.exports if system != "macos" or not _OF_MACOS.match(name)]
    foreign = [name for name in own if not name.startswith(EXPORTS)]
    if foreign or not facts.exports:
        wrong.append(f"expected exports of the interface alone, got {', '.join(foreign[:5]) or 'none'}")
    strange = [name for name in facts.imports if not _SYSTEM_LIBRARIES[system].fullmatch(name)]
    if strange:
        wrong.append(f"needs {', '.join(strange)}, which systems do not bring")
    if facts.paths:
        wrong.append(f"looks for libraries in {', '.join(facts.paths)}")
    promised = re.search(r"(?:gnu|macos)\.([\d.]+)$", target.triple)
    if promised and _version(facts.oldest) > _version(promised[1]):
        wrong.append(f"asks for {facts.oldest}, the tag promises {promised[1]}")
    if system == "macos" and machine == "arm64" and not facts.signed:
        wrong.append("has no code signature, without which macOS on Arm loads nothing")
    return wrong


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))


def granted_tags(wheel: Path) -> list[str]:
    """The manylinux tags that auditwheel grants a wheel. Raises DualBinaryError where it grants none."""
    command = [environment() / "python", "-m", "auditwheel", "show", wheel]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    granted = re.findall(r'"(manylinux_\w+)"', " ".join(answer.stdout.split()))
    if not granted:
        raise DualBinaryError(
            f"{wheel.name}: auditwheel grants no tag: {(answer.stdout + answer.stderr).strip()[-300:]}"
        )
    return granted


def _wrong_for_auditwheel(wheel: Path, target: Target) -> list[str]:
    """The oldest tag that auditwheel grants has to be that of the name."""
    oldest = min((tag for tag in granted_tags(wheel) if tag.startswith("manylinux_")), key=_version)
    promised = next((tag for tag in target.platform.split(".") if tag.startswith("manylinux_")), None)
    if promised is None:  # a wrong name, which is said already
        return []
    return [] if _version(oldest) <= _version(promised) else [f"auditwheel grants {oldest}, the name says {promised}"]
