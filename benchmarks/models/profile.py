"""Time of a token and of a prompt by operator, between operators, and the floor that memory sets.

    python -m benchmarks.models.profile OUT.onnx [--threads 2] [--prompt-length 128] [--tokens 64] [--json]

Runs with ONNX Runtime's profiler, which makes each node about a microsecond slower, and is timed without it as well.
The floor of a token (benchmarks/models/floor.py) is measured in between; `of the floor` is the time of a token without
the profiler by it.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.models.floor import Floor, measured_floor
from dualbinary import InputError
from dualbinary.cli.console import add_common_options, run
from runtime_ext.bench import SEED, TOKEN_RANGE
from runtime_ext.config import DecoderConfig
from runtime_ext.decoder import PROMPT_CHUNK, Decoder, session_options

__all__ = ["OperatorTime", "Phase", "Profile", "by_run", "main", "profile"]

PROMPTS = 6
WARM_UP = 4


@dataclass(frozen=True)
class OperatorTime:
    """One operator: how many nodes a run has, and microseconds of all of them in a run (median over runs)."""

    operator: str
    nodes: int
    microseconds: float


@dataclass(frozen=True)
class Phase:
    """Microseconds of one run of the session, medians over runs.

    Attributes:
        seen: as users see it, without the profiler.
        profiled: of the session, with the profiler.
        operators: times of the kernels, the largest first.
        between: `profiled` without the kernels.
    """

    seen: float
    profiled: float
    operators: list[OperatorTime]
    between: float

    def table(self, title: str) -> str:
        """Lines of a Markdown table."""
        lines = [f"| {title} | nodes | us | share |", "| --- | ---: | ---: | ---: |"]
        for each in [*self.operators, OperatorTime("between the nodes", 0, self.between)]:
            share = each.microseconds / self.profiled
            lines.append(f"| {each.operator} | {each.nodes or ''} | {each.microseconds:.0f} | {share:.1%} |")
        nodes = sum(each.nodes for each in self.operators)
        lines.append(f"| all, profiler on | {nodes} | {self.profiled:.0f} | 100.0% |")
        lines.append(f"| all, profiler off | | {self.seen:.0f} | |")
        return "\n".join(lines)


@dataclass(frozen=True)
class Profile:
    """A prompt and a token, and the floor of the latter."""

    prompt: Phase
    token: Phase
    floor: Floor

    def table(self) -> str:
        """Format the tables for people."""
        seconds = self.token.seen / 1e6
        return (
            f"{self.prompt.table('prompt')}\n\n{self.token.table('token')}\n\n"
            f"{1 / seconds:.1f} tokens/s, {self.floor.times(seconds):.2f} of the floor: {self.floor}"
        )

    def record(self) -> dict[str, Any]:
        """Return it for JSON."""
        floor = self.floor.record(self.token.seen / 1e6)
        return {"prompt": asdict(self.prompt), "token": asdict(self.token), **floor}


def profile(path: Path, threads: int, prompt_length: int, tokens: int) -> Profile:
    """Read prompts and decode `tokens` tokens after one, with and without the profiler.

    Raises InputError as Decoder.load does.
    """
    ids = np.random.default_rng(SEED).integers(*TOKEN_RANGE, size=prompt_length + tokens).tolist()
    plain = Decoder.load(path, threads)
    before = _times(plain, ids, prompt_length)
    with tempfile.TemporaryDirectory() as scratch:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "profile")
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        _times(Decoder(session, DecoderConfig.read(path.parent)), ids, prompt_length)
        runs = by_run(json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")))
    floor = measured_floor(path, threads)
    after = _times(plain, ids, prompt_length)
    return Profile(
        prompt=_phase(before[0] + after[0], runs[1:PROMPTS]),
        token=_phase(before[1] + after[1], runs[PROMPTS + WARM_UP :]),
        floor=floor,
    )


def _phase(seconds: list[float], runs: list["_Run"]) -> Phase:
    names = {name for run in runs for name in run.kernels}
    operators = [
        OperatorTime(
            name,
            round(statistics.median(len(run.kernels[name]) for run in runs)),
            statistics.median(sum(run.kernels[name]) for run in runs),
        )
        for name in names
    ]
    return Phase(
        seen=1e6 * statistics.median(seconds),
        profiled=statistics.median(run.duration for run in runs),
        operators=sorted(operators, key=lambda each: -each.microseconds),
        between=statistics.median(run.duration - sum(map(sum, run.kernels.values())) for run in runs),
    )


def _times(decoder: Decoder, ids: list[int], prompt_length: int) -> tuple[list[float], list[float]]:
    """Time PROMPTS - 1 prompts, and each token after the last one but the first WARM_UP."""
    prompts = []
    for _ in range(PROMPTS):
        decoder.start(len(ids))
        prompts.append(_seconds(decoder, ids[:prompt_length]))
    tokens = [_seconds(decoder, [token]) for token in ids[prompt_length:]]
    return prompts[1:], tokens[WARM_UP:]


def _seconds(decoder: Decoder, tokens: list[int]) -> float:
    begin = time.perf_counter()
    decoder.step(tokens)
    return time.perf_counter() - begin


@dataclass
class _Run:
    duration: float
    kernels: dict[str, list[float]]


def by_run(events: list[dict[str, Any]]) -> list[_Run]:
    """Split a profile into the runs of a session, each with the microseconds of its kernels by operator."""
    bounds = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") == "model_run")
    kernels = sorted(
        (e["ts"], e["dur"], e["args"]["op_name"])
        for e in events
        if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")
    )
    runs = []
    place = 0
    for begin, end in bounds:
        found: dict[str, list[float]] = defaultdict(list)
        while place < len(kernels) and kernels[place][0] < end:
            at, duration, operator = kernels[place]
            if at >= begin:
                found[operator].append(duration)
            place += 1
        runs.append(_Run(end - begin, found))
    return runs


def _command(args: argparse.Namespace) -> None:
    for name in ("threads", "prompt_length", "tokens"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(args, name)}")
    if args.prompt_length > PROMPT_CHUNK:
        raise InputError(
            f"--prompt-length: expected at most {PROMPT_CHUNK}, one run of the decoder, got {args.prompt_length}"
        )
    found = profile(args.model, args.threads, args.prompt_length, args.tokens + WARM_UP)
    facts = {"model": str(args.model), "threads": args.threads}
    print(json.dumps({**facts, **found.record()}) if args.json else found.table())


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models.profile", description="Time of a prompt and of a token by operator."
    )
    parser.add_argument("model", type=Path, metavar="OUT.onnx", help="an exported model")
    parser.add_argument("--threads", type=int, default=2, metavar="T", help="default 2")
    parser.add_argument("--prompt-length", type=int, default=128, metavar="N", help="of the prompt (default 128)")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="tokens to decode (default 64)")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
