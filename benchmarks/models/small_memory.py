"""Exports on a device with little memory: load time, memory and tokens a second below a limit.

    python -m benchmarks.models.small_memory FILE... [--limits 512 1024] [--prompt 256] [--tokens 32]
        [--threads 2] [--rounds 3] [--json]

Each run is a process of its own, after the model's files have been let go from the page cache as far as nobody else
uses them: it loads the file, reads a prompt and writes tokens, in a cache for both. `memory` is the most that the group
of the process was charged with, pages of the mapped file among it, which the system may drop and read again; `private`
is what it may not drop, RssAnon at the end. Python and NumPy, which a program in C++ has not, are in both, and so in
the row `nothing`, which imports no ONNX Runtime.

The limit, in MB of 2^20 bytes, is that of a memory control group, version 2 or 1, where this user may make one; else it
is RLIMIT_DATA of the process, which leaves mapped files out, and there is no figure for memory.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dualbinary import InputError
from dualbinary.cli.console import add_common_options, run

__all__ = ["Group", "main"]

_MB = 1 << 20
_TOKEN = 100  # below any vocabulary in use
_NOTHING = "nothing"
_GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Group:
    """A memory control group: the files that hold its processes, limit and peak."""

    directory: Path
    limit: str
    peak: str

    @classmethod
    def made(cls) -> "Group | None":
        """A new group, None where this user can make none."""
        places = (
            (_GROUPS, "memory.max", "memory.peak"),
            (_GROUPS / "memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
        )
        for parent, limit, peak in places:
            directory = parent / f"small_memory.{os.getpid()}"
            with contextlib.suppress(OSError):
                directory.mkdir()
                if (directory / limit).exists() and (directory / peak).exists():
                    return cls(directory, limit, peak)
                directory.rmdir()
        return None

    @contextlib.contextmanager
    def limited(self, megabytes: int) -> Iterator[None]:
        """This group with a limit, empty and removed at the end."""
        (self.directory / self.limit).write_text(str(megabytes * _MB))
        try:
            yield
        finally:
            self.directory.rmdir()

    def enter(self) -> None:
        """Put the calling process into the group."""
        (self.directory / "cgroup.procs").write_text(str(os.getpid()))

    def peak_bytes(self) -> int:
        """The most that was charged."""
        return int((self.directory / self.peak).read_text())


def _let_go(model: Path) -> None:
    """Drop the pages of the files beside `model` that nobody has mapped."""
    for path in model.parent.iterdir():
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def _child(path: str, prompt: int, tokens: int, threads: int) -> dict[str, float]:
    """What one process sees of itself."""
    from runtime_ext.decoder import Decoder

    begin = time.perf_counter()
    times = dict.fromkeys(("load", "prompt", "token"), 0.0)
    if path != _NOTHING:
        decoder = Decoder.load(Path(path), threads)
        times["load"] = time.perf_counter() - begin
        decoder.start(prompt + tokens)
        begin = time.perf_counter()
        for first in range(0, prompt, 256):
            decoder.step([_TOKEN] * min(256, prompt - first))
        times["prompt"] = time.perf_counter() - begin
        begin = time.perf_counter()
        for _ in range(tokens):
            decoder.step([_TOKEN])
        times["token"] = (time.perf_counter() - begin) / tokens
    lines = Path("/proc/self/status").read_text().splitlines()
    status = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    return times | {"private": (int(status["RssAnon"][0]) + int(status["VmSwap"][0])) * 1024}


def _once(path: str, limit: int, args: argparse.Namespace) -> dict[str, float] | str:
    """One run below `limit` MB: its figures, or how it ended."""
    if path != _NOTHING:
        _let_go(Path(path))
    command = [sys.executable, "-m", "benchmarks.models.small_memory", "--child", path]
    command += [f"--{name}={getattr(args, name)}" for name in ("prompt", "tokens", "threads")]
    group = Group.made()

    def enter() -> None:
        if group is None:
            resource.setrlimit(resource.RLIMIT_DATA, (limit * _MB, limit * _MB))
        else:
            group.enter()

    with group.limited(limit) if group else contextlib.nullcontext():
        done = subprocess.run(command, preexec_fn=enter, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or [""])[-1]
            return "killed: no memory" if done.returncode == -9 else f"failed: {last}"
        return json.loads(done.stdout) | {"memory": group.peak_bytes() if group else float("nan")}


def _main(args: argparse.Namespace) -> None:
    if args.child:
        print(json.dumps(_child(args.child, args.prompt, args.tokens, args.threads)))
        return
    if not args.files:
        raise InputError("no FILE: expected exported models, OUT.onnx")
    rows = []
    for path in [_NOTHING, *args.files]:
        for limit in args.limits:
            runs = [_once(path, limit, args) for _ in range(args.rounds)]
            row: dict[str, object] = {"file": path, "limit": limit, "bytes": _size(path)}
            failed = next((each for each in runs if isinstance(each, str)), None)
            good = [each for each in runs if not isinstance(each, str)]
            medians = {key: statistics.median(each[key] for each in good) for key in (good[0] if good else ())}
            rows.append(row | ({"failed": failed} if failed else medians))
    if args.json:
        print(json.dumps({"rows": rows}))
        return
    print("| file | on disk | limit | load | prompt | token | memory | private |\n| --- |" + " ---: |" * 7)
    for row in rows:
        print(_line(row))


def _size(path: str) -> int:
    if path == _NOTHING:
        return 0
    return sum(each.stat().st_size for each in Path(path).parent.glob(f"{Path(path).name}*"))


def _line(row: dict) -> str:
    first = f"| {row['file']} | {row['bytes'] / 1e6:.0f} MB | {row['limit']} MB | "
    if "failed" in row:
        return f"{first}{row['failed']} | | | | |"
    times = f"{row['load']:.2f} s | {row['prompt']:.2f} s | {row['token'] * 1e3:.1f} ms | "
    return f"{first}{times}{row['memory'] / 1e6:.0f} MB | {row['private'] / 1e6:.0f} MB |"


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models.small_memory", description="Run exports below a limit of memory."
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="exported models")
    parser.add_argument("--limits", type=int, nargs="+", default=[512, 1024], metavar="MB", help="limits of memory")
    parser.add_argument("--prompt", type=int, default=256, metavar="N", help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=32, metavar="N", help="tokens written")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="threads of the session")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="runs of each; the table has medians")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    add_common_options(parser)
    return run(parser, _main, argv)


if __name__ == "__main__":
    sys.exit(main())
