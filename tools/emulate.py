"""Run Python on a CPU that is not here: `python tools/emulate.py CPU ARGS...` is `python ARGS...` under qemu.

    python tools/emulate.py nehalem -m pytest tests/runtime/test_kernels.py        x86-64 without AVX
    python tools/emulate.py cortex-a53 -m pytest tests/runtime/test_kernels.py     64-bit Arm: `make check-arm`

x86-64 CPUs run this environment's own Python and library. For Arm CPUs a Python with the packages of the kernel tests
is put together under build/emulated, once, from the Debian archive and PyPI; nothing is installed. The library is the
cross-built one of the preset aarch64.
"""

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "emulated"
ARM_LIBRARY = ROOT / "build" / "aarch64" / "libdualbinary.so"


@dataclass(frozen=True)
class Cpu:
    """A CPU that qemu can be."""

    emulator: str
    model: str


CPUS = {
    "nehalem": Cpu("qemu-x86_64", "Nehalem"),  # the oldest that NumPy itself still supports
    "cortex-a53": Cpu("qemu-aarch64", "cortex-a53"),  # baseline Armv8.0-A
    "neoverse-n1": Cpu("qemu-aarch64", "neoverse-n1"),  # with dotprod
    "arm-max": Cpu("qemu-aarch64", "max"),  # with i8mm and all else that qemu knows
}

DEBIAN_PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
PYTHON_PACKAGES = ("hypothesis", "numpy", "onnx", "onnxruntime", "pytest")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")

# qemu shows these instead of this machine's files, in which libraries would look for Arm CPUs and find none.
MACHINE_FILES = {
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
    "CPU variant\t: 0x0\nCPU part\t: 0xd03\nCPU revision\t: 4\n",
    "sys/devices/system/cpu/possible": "0\n",
    "sys/devices/system/cpu/present": "0\n",
}


class EmulationError(Exception):
    """Something that this machine lacks; the message says what to install."""


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code; 2 if this machine cannot."""
    if not arguments or arguments[0] not in CPUS:
        print(f"usage: emulate.py {{{','.join(CPUS)}}} PYTHON_ARGUMENTS...", file=sys.stderr)
        return 2
    try:
        python = interpreter(CPUS[arguments[0]])
    except EmulationError as error:
        print(f"emulate.py: {error}", file=sys.stderr)
        return 2
    return subprocess.run([python, *arguments[1:]], cwd=ROOT, check=False).returncode


def interpreter(cpu: Cpu) -> Path:
    """A script that is that CPU's Python; also what sys.executable says there, so that children are emulated too."""
    emulator = tool(cpu.emulator, "qemu-user")
    environment = {"QEMU_CPU": cpu.model}
    if cpu.emulator == "qemu-x86_64":
        python = Path(sys.executable)
        environment["OPENBLAS_CORETYPE"] = cpu.model  # else it takes code for a newer CPU, by its model number
    else:
        if not ARM_LIBRARY.is_file():
            raise EmulationError(f"{ARM_LIBRARY.relative_to(ROOT)} is not there; `make check-arm` builds it")
        python = arm_python()
        system = python.parent.parent.parent
        environment |= {
            "QEMU_LD_PREFIX": str(system),
            "PYTHONHOME": str(system / "usr"),
            "PYTHONPATH": os.pathsep.join([str(system.parent / "site"), str(ROOT)]),
            "PYTHONDONTWRITEBYTECODE": "1",  # this tree serves two Pythons
            "DUALBINARY_LIBRARY": str(ARM_LIBRARY),
        }
    script = WORK / cpu.model / "bin" / "python"
    script.parent.mkdir(parents=True, exist_ok=True)
    settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
    # The name that Python is told must lie in the environment of the real one, which it finds by it.
    told = script if cpu.emulator != "qemu-x86_64" else python
    command = f'exec env {settings} {emulator} -0 {shlex.quote(str(told))} {shlex.quote(str(python))} "$@"'
    partial = script.with_name(f"python.{os.getpid()}")
    partial.write_text(f"#!/bin/sh\n{command}\n")
    partial.chmod(0o755)
    partial.replace(script)  # in one step: another run may be starting from it
    return script


def arm_python() -> Path:
    """Path of the Arm system's Python, put together where it is not there yet."""
    done = WORK / "aarch64"
    if not done.is_dir():
        partial = WORK / "aarch64.partial"
        shutil.rmtree(partial, ignore_errors=True)
        unpack_debian(partial / "system", partial / "apt")
        version = next((partial / "system" / "usr" / "bin").glob("python3.*")).name.removeprefix("python")
        platforms = [f"--platform={name}" for name in PLATFORMS]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:", f"--python-version={version}"]
        target = [f"--target={partial / 'site'}", "-c", str(ROOT / "constraints.txt")]
        run([*pip, *platforms, *target, *PYTHON_PACKAGES])
        for name, text in MACHINE_FILES.items():
            path = partial / "system" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        partial.rename(done)
    return next((done / "system" / "usr" / "bin").glob("python3.*"))


def unpack_debian(system: Path, state: Path) -> None:
    """Download the packages for arm64 with their dependencies and unpack them into `system`, with a private apt."""
    apt, dpkg = tool("apt-get", "apt"), tool("dpkg-deb", "dpkg")
    for folder in (system, state / "lists" / "partial", state / "cache" / "archives" / "partial"):
        folder.mkdir(parents=True)
    (state / "status").touch()  # a system without any package
    settings = {
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "APT::Architecture": "arm64",
        "APT::Architectures::": "arm64",
        "APT::Sandbox::User": "",
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
        "Debug::NoLocking": "true",
    }
    configuration = state / "apt.conf"
    configuration.write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))
    environment = {**os.environ, "APT_CONFIG": str(configuration)}
    run([apt, "-qq", "update"], environment)
    run([apt, "-qq", "install", "--download-only", "--yes", *DEBIAN_PACKAGES], environment)
    for package in sorted((state / "cache" / "archives").glob("*.deb")):
        run([dpkg, "--extract", str(package), str(system)])
    shutil.rmtree(state)


def tool(name: str, package: str) -> str:
    """Path of a program of this machine."""
    path = shutil.which(name)
    if path is None:
        raise EmulationError(f"{name} was not found: install the Debian package {package}")
    return path


def run(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Run a command that must succeed."""
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise EmulationError(f"`{shlex.join(command)}` failed:\n{result.stdout}{result.stderr}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
