"""Targets of the C++ library: built with Clang, run by libFuzzer from seeds that are made here."""

import os
import random
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path

from dualbinary import DualBinaryError, InputError
from tools.built_isas import skipped_isas
from tools.cmake_presets import build_preset
from tools.fuzz.outcome import Crash, Outcome

__all__ = ["build", "clang", "run", "targets", "write_seeds"]

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "runtime_ext" / "fuzz"
BUILD = ROOT / "build" / "fuzz"
ENTRY = "LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {"
# Most seeds are well formed: bytes of 240 and more are what spoils a call (bytes.h).
SPOILS = 240
SEEDS = 64
SEED_BYTES = 400
VERSIONS = range(25, 13, -1)  # of Clang, as Debian and Ubuntu name their programs
# Without what takes a third of the time and is no use here: where memory was allocated, which running a crash again
# says, and frames of functions that have returned, which `make sanitize` looks at.
FAST = "malloc_context_size=2:detect_stack_use_after_return=0:quarantine_size_mb=16"
# What is too slow is a timeout; the report of slow inputs is off, as it takes a machine that slept for one.
LIMITS = ("-max_len=1024", "-timeout=20", "-report_slow_units=86400", "-rss_limit_mb=4096")
EXECUTED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
REPORT = re.compile(r"^(?:==\d+==ERROR: (.*)|.*?(runtime error: .*)|(defect: .*))$", re.MULTILINE)


def targets() -> list[str]:
    """Names of the targets, which are the files of runtime_ext/fuzz with an entry."""
    return sorted(path.stem for path in SOURCES.glob("*.cc") if ENTRY in path.read_text(encoding="utf-8"))


def clang() -> str:
    """Find a Clang: the one that CXX names, or the newest on PATH. Raises InputError where there is none."""
    named = os.environ.get("CXX", "")
    for name in ([named] if "clang" in named else []) + ["clang++", *(f"clang++-{version}" for version in VERSIONS)]:
        if path := shutil.which(name):
            return path
    raise InputError(
        "clang++: not found, and no other compiler has libFuzzer; install it (Debian: clang and libclang-rt-dev), or "
        "name it by CXX. `pytest tests/tools/test_fuzz.py` runs the C++ targets for a moment with any compiler"
    )


def build(jobs: int = 2) -> None:
    """Build all targets. Raises DualBinaryError, with the compiler's last words, where that fails."""
    skipped = f"-DDUALBINARY_SKIP_ISAS={';'.join(skipped_isas())}"
    build_preset("fuzz", jobs, settings=(f"-DCMAKE_CXX_COMPILER={clang()}", skipped))


def write_seeds(folder: Path) -> None:
    """Write the inputs to begin with, which are the same each time: all zeros, and noise that spoils more and more."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = random.Random(0)
    for number in range(SEEDS):
        odds = number % 4 / 64  # that a byte may spoil the call
        seed = bytes(
            value if value < SPOILS or noise.random() < odds else value - SPOILS
            for value in noise.randbytes(SEED_BYTES)
        )
        (folder / f"seed{number:02}").write_bytes(seed if number > 0 else bytes(SEED_BYTES))


def run(target: str, seconds: int, work: Path) -> Outcome:
    """Run one target for so many seconds. What it learned stays in `work`, where the next run begins with it."""
    folder = work / target
    for name in ("corpus", "crashes"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_seeds(folder / "seeds")
    program = BUILD / f"fuzz_{target}"
    before = set((folder / "crashes").iterdir())
    limits = [*LIMITS, f"-max_total_time={seconds}", "-print_final_stats=1", f"-artifact_prefix={folder / 'crashes'}/"]
    begin = time.perf_counter()
    done = subprocess.run(
        [program, *limits, folder / "corpus", folder / "seeds"],
        capture_output=True,
        text=True,
        errors="replace",
        env={"ASAN_OPTIONS": FAST, **os.environ},
        check=False,
    )
    taken = time.perf_counter() - begin
    executed = EXECUTED.search(done.stderr)
    found = sorted(set((folder / "crashes").iterdir()) - before)
    if not found and done.returncode != 0:
        raise DualBinaryError(f"fuzz_{target} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    what = "; ".join(dict.fromkeys(next(filter(None, match)) for match in REPORT.findall(done.stderr)))
    crashes = tuple(Crash(what or "no report", shlex.join([str(program), str(path)])) for path in found)
    return Outcome(target, int(executed[1]) if executed else 0, taken, crashes)
