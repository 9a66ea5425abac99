"""Check everything that needs an NVIDIA GPU, on a machine that has one: `make gpu-check`.

    python -m tools.gpu_check [--full] [--json]      all checks, one table
    python -m tools.gpu_check --offline              the kernels alone, where nothing can be downloaded
    python -m tools.gpu_check --emulated             without a GPU: tries this command itself, and checks no GPU

Builds the kernels for the device, makes an environment with onnxruntime-gpu on top of this one (.venv-gpu), multiplies
small products by every kernel, runs all tests marked gpu, compute-sanitizer, and the benchmark with its aims. Every
step is a process with a log in --logs, and its row is printed when it ends; a step that fails stops only those that
need it. Exit code 0 means that all checks passed and that tests did run on the GPU.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from dualbinary import DualBinaryError
from dualbinary.cli.console import add_common_options, run

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "out" / "gpu_check"
CONSTRAINTS = ROOT / "constraints-cuda.txt"
ENVIRONMENT = ROOT / ".venv-gpu"
VARIABLE = "DUALBINARY_CUDA_LIBRARY"
# By name, as a machine without all packages cannot import every file of tests; the first needs no exporter.
GPU_TESTS = ("tests/runtime/test_cuda_kernels.py", "tests/runtime/test_cuda_session.py", "tests/e2e/test_cuda.py")
SANITIZERS = ("memcheck", "racecheck", "synccheck")
SANITIZER_FAILED = 86  # an exit code that Python does not have
EMULATED_BENCH = ("--emulated", "--shapes", "64x256", "--rows", "1", "16", "--rounds", "1", "--seconds", "0")
PASS, FAIL, SKIP = "pass", "FAIL", "skip"


@dataclass(frozen=True)
class Check:
    """A row of the table."""

    name: str
    result: str
    seconds: float
    detail: str


@dataclass
class Session:
    """Settings of the child processes, and the library that the steps share."""

    emulated: bool
    timeout: float  # seconds of a step
    logs: Path
    offline: bool = False
    deadline: float = float("inf")  # of all steps, on the clock of time.monotonic()
    python: Path = Path(sys.executable)
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    library: Path | None = None

    def child(self, name: str, *command: str | Path) -> tuple[Check, str]:
        """Run a step from the repository's root. Returns its row, with the last line of its output, and its output."""
        print(f"== {name}", file=sys.stderr, flush=True)
        log = self.logs / f"{name.replace(' ', '_')}.log"
        begin = time.perf_counter()
        timeout = min(self.timeout, self.deadline - time.monotonic())
        if timeout <= 0:
            return Check(name, FAIL, 0, "no time was left for it"), ""
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
            output, code = done.stdout, done.returncode
        except subprocess.TimeoutExpired as error:
            partial = error.stdout or b""
            output = partial.decode(errors="replace") if isinstance(partial, bytes) else partial
            output, code = f"{output}\nno end after {timeout:.0f} seconds", -1
        except OSError as error:
            output, code = str(error), -1
        log.write_text(output, encoding="utf-8")
        lines = output.split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        detail = last if code == 0 else f"{last} (exit code {code}, {log})"
        return Check(name, FAIL if code else PASS, time.perf_counter() - begin, detail), output


def gpu() -> dict[str, str]:
    """Name, compute_capability such as 9.0, memory and driver of the first GPU. Raises DualBinaryError without one."""
    fields = {"name": "name", "compute_cap": "compute_capability", "memory.total": "memory", "driver_version": "driver"}
    tool = shutil.which("nvidia-smi")
    command = [tool or "", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False) if tool else None
    if done is None or done.returncode != 0 or not done.stdout.strip():
        why = "nvidia-smi was not found" if done is None else " ".join((done.stdout + done.stderr).split())
        raise DualBinaryError(
            f"no NVIDIA GPU ({why}), so nothing was checked: run this where there is one; --emulated tries the command"
        )
    values = [value.strip() for value in done.stdout.splitlines()[0].split(",")]
    return dict(zip(fields.values(), values, strict=True))


def checks(session: Session, full: bool) -> Iterator[Check]:
    """All steps, in order. Each row comes when its step is done."""
    if session.emulated:
        yield Check("device", SKIP, 0, "emulated: the CPU")
        yield build_emulated(session)
    else:
        device = gpu()
        yield Check("device", PASS, 0, ", ".join(device.values()))
        yield build(session, device["compute_capability"].replace(".", ""))
        yield Check("onnxruntime-gpu", SKIP, 0, "offline") if session.offline else onnxruntime(session)
    if session.library is None:
        yield Check("everything else", FAIL, 0, "needs the library")
        return
    session.environment[VARIABLE] = str(session.library)
    yield session.child("products", *products(session))[0]
    yield from tests(session)
    yield from sanitizers(session)
    yield from benchmark(session, full)
    yield from models(session, full)


def build(session: Session, architecture: str) -> Check:
    """Compile for the device alone, and load."""
    options = ["--architectures", architecture, "--jobs", str(os.cpu_count() or 2), "--json"]
    options += ["--offline"] if session.offline else []
    check, output = session.child("build", session.python, "-m", "tools.build_cuda", *options)
    if check.result == FAIL:
        return check
    facts = json.loads(output.splitlines()[-1])
    session.library = Path(facts["library"])
    kernels = ", ".join(kernel["name"] for kernel in facts["kernels"])
    if not facts["devices"]:
        return Check("build", FAIL, check.seconds, f"the library sees no device: {facts['error']}")
    return Check("build", PASS, check.seconds, f"architecture {architecture}: {kernels}")


def build_emulated(session: Session) -> Check:
    """The same kernels, compiled for the CPU."""
    folder = ROOT / "build" / "cuda-emulated"
    tools = str(session.python.parent)
    session.environment["PATH"] = os.pathsep.join([tools, session.environment["PATH"]])
    options = ["-DDUALBINARY_CUDA_EMULATED=ON", f"-DPython3_EXECUTABLE={session.python}"]
    check, _ = session.child("configure", "cmake", "--preset", "release", "-B", folder, *options)
    if check.result == PASS:
        check, _ = session.child("build", "cmake", "--build", folder, "--target", "dualbinary_cuda_emulated")
    if check.result == PASS:
        session.library = folder / "libdualbinary_cuda_emulated.so"
    return check


def onnxruntime(session: Session) -> Check:
    """Make the environment whose ONNX Runtime has the CUDA provider; later steps run in it."""
    name = "onnxruntime-gpu"
    python = ENVIRONMENT / "bin" / "python"
    if not python.is_file():
        made, _ = session.child(name, session.python, "-m", "venv", ENVIRONMENT)
        if made.result == FAIL:
            return made
    own = next(ENVIRONMENT.glob("lib/python*/site-packages"))
    below = Path(sysconfig.get_path("purelib"))
    # Packages of the environment below come after its own on the path, so that its onnxruntime is the one.
    (own / "below.pth").write_text(f"import site; site.addsitedir({str(below)!r})\n")
    packages = ["onnxruntime-gpu[cuda,cudnn]", "nvidia-cuda-sanitizer-api"]
    installed, _ = session.child(name, python, "-m", "pip", "install", "--quiet", "-c", CONSTRAINTS, *packages)
    if installed.result == FAIL:
        return installed
    session.python = python
    libraries = [str(path) for site in (below, own) for path in sorted(site.glob("nvidia/*/lib"))]
    before = session.environment.get("LD_LIBRARY_PATH")
    session.environment["LD_LIBRARY_PATH"] = os.pathsep.join(libraries + ([before] if before else []))
    words = (
        "import onnxruntime as o; print(o.__version__); assert 'CUDAExecutionProvider' in o.get_available_providers()"
    )
    return session.child(name, python, "-c", words)[0]


def products(session: Session) -> list[str | Path]:
    """The command of the program that sanitizers watch."""
    assert session.library is not None
    emulated = ["--emulated"] if session.emulated else []
    return [session.python, "-m", "benchmarks.cuda.products", "--library", session.library, *emulated]


def tests(session: Session) -> Iterator[Check]:
    """All tests that are marked gpu, a row for each file."""
    if session.emulated:
        yield Check("tests", SKIP, 0, "those marked gpu need one; make test runs the emulated ones")
        return
    report = session.logs / "tests.xml"
    report.unlink(missing_ok=True)
    options = ["-m", "gpu", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", f"--junitxml={report}"]
    files = GPU_TESTS[:1] if session.offline else GPU_TESTS
    check, _ = session.child("tests", session.python, "-m", "pytest", *files, *options)
    if not report.is_file():
        yield check
        return
    yield from test_rows(report, check)


def test_rows(report: Path, check: Check) -> Iterator[Check]:
    """Rows from pytest's JUnit file; the last one says whether anything ran at all."""
    files: dict[str, list[ElementTree.Element]] = defaultdict(list)
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        files[case.get("classname", "")].append(case)
    passed = 0
    for name, cases in files.items():
        failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
        skipped = [case for case in cases if case.find("skipped") is not None]
        good = len(cases) - len(failed) - len(skipped)
        passed += good
        detail = f"{good} passed, {len(failed)} failed, {len(skipped)} skipped"
        if skipped:
            reason = skipped[0].find("skipped")
            detail += f": {'' if reason is None else reason.get('message')}"
        result = FAIL if failed else PASS if good else SKIP
        yield Check(f"tests of {name}", result, sum(float(case.get("time", 0)) for case in cases), detail)
    if check.result == FAIL or not passed:
        yield Check("tests", FAIL, check.seconds, check.detail if passed else "no test ran on the GPU")
    else:
        yield check


def sanitizers(session: Session) -> Iterator[Check]:
    """compute-sanitizer's tools over small products of every kernel."""
    tool = shutil.which("compute-sanitizer") or next(
        map(str, ENVIRONMENT.glob("lib/python*/site-packages/nvidia/cu*/bin/compute-sanitizer")), None
    )
    for name in SANITIZERS:
        if session.emulated or tool is None:
            why = "it watches GPUs" if session.emulated else "compute-sanitizer was not found"
            yield Check(name, SKIP, 0, why)
            continue
        options = ["--tool", name, "--error-exitcode", str(SANITIZER_FAILED)]
        check, output = session.child(name, tool, *options, *products(session))
        summary = [line.strip("= ") for line in output.splitlines() if "SUMMARY" in line]
        yield Check(name, check.result, check.seconds, f"{summary[-1] if summary else ''} {check.detail}".strip())


def benchmark(session: Session, full: bool) -> Iterator[Check]:
    """The benchmark, and a row for each of its aims."""
    out = session.logs / "bench.json"
    out.unlink(missing_ok=True)  # of another build, perhaps
    amount = EMULATED_BENCH if session.emulated else ("--kernels", "all", *(() if full else ("--quick",)))
    check, _ = session.child("benchmark", session.python, "-m", "benchmarks.cuda.bench", "--out", out, *amount)
    yield Check(check.name, check.result, check.seconds, str(out) if check.result == PASS else check.detail)
    if session.emulated or check.result == FAIL:
        return
    judged, output = session.child("aims", session.python, "-m", "benchmarks.cuda.report", out, "--json")
    if judged.result == FAIL:
        yield judged
        return
    for each in json.loads(output.splitlines()[-1])["verdicts"]:
        yield Check(f"aim: {each['aim']}", PASS if each["verdict"] == "PASS" else FAIL, 0, each["detail"])


def models(session: Session, full: bool) -> Iterator[Check]:
    """Whole models on the CUDA provider: the CPU's tokens, and speeds beside the float16 model."""
    names = ("smollm2", "llama-1b") if full else ("smollm2",)
    if session.emulated or session.offline:
        why = "ONNX Runtime's CUDA provider needs a GPU" if session.emulated else "offline"
        yield Check("whole models", SKIP, 0, why)
        return
    agreement = ("benchmarks.models.provider_agreement", "--models", *names)
    yield session.child("same tokens as the CPU", session.python, "-m", *agreement)[0]
    bench = ("benchmarks.models.bench", "--provider", "cuda", "--rounds", "3", "--models", *names)
    check, output = session.child("whole models", session.python, "-m", *bench)
    print(output, file=sys.stderr)  # its table
    yield check


def table(rows: list[Check]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| check | result | seconds | detail |"
    yield "| --- | --- | ---: | --- |"
    yield from map(line, rows)


def line(row: Check) -> str:
    """The row as a line of a Markdown table."""
    return f"| {row.name} | {row.result} | {row.seconds:.0f} | {row.detail.replace('|', '/')} |"


def _command(args: argparse.Namespace) -> None:
    logs = args.logs.resolve()
    logs.mkdir(parents=True, exist_ok=True)
    session = Session(args.emulated, args.timeout, logs, args.offline, time.monotonic() + 60 * args.minutes)
    rows = []
    for row in checks(session, args.full):
        print(line(row), file=sys.stderr, flush=True)  # what is known stays on the screen if this is ended
        rows.append(row)
    failed = [row.name for row in rows if row.result == FAIL]
    if args.json:
        content: dict[str, Any] = {"emulated": args.emulated, "passed": not failed, "checks": [*map(asdict, rows)]}
        print(json.dumps(content))
    else:
        print("\n".join(table(rows)))
    if failed:
        raise DualBinaryError(f"{len(failed)} of {len(rows)} checks failed: {', '.join(failed)}")
    if args.emulated:
        print("emulated: this command works; nothing ran on a GPU", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.gpu_check", description="Check all that needs an NVIDIA GPU."
    )
    parser.add_argument(
        "--full", action="store_true", help="all shapes and rows, not a few, and a model of 1.1 billion parameters"
    )
    parser.add_argument("--emulated", action="store_true", help="without a GPU: tries this command itself")
    parser.add_argument(
        "--offline", action="store_true", help="download nothing: without onnxruntime-gpu, and the models that need it"
    )
    parser.add_argument("--logs", type=Path, default=LOGS, metavar="DIR", help="of all steps (default out/gpu_check)")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="for all steps; those that it leaves no time for fail"
    )
    parser.add_argument("--timeout", type=float, default=3600, metavar="SECONDS", help="for a step (default 3600)")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
