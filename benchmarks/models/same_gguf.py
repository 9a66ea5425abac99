"""One GGUF file here and in llama.cpp: do both choose the same tokens, and how fast?

    python -m benchmarks.models.same_gguf FILE.gguf [--threads 1 2] [--rounds 5] [--work DIR] [--out FILE] [--json]

The file is exported (`python -m exporter FILE.gguf OUT.onnx`), with activations of 15 bits (level 0, the default) and
of 8 (level 4). Then:

    agreement   fixed prompts and 64 tokens after each, the same ids for all; logits are held against those of the
                exact model: weights dequantized by the gguf library, everything in float32 (transformers). It needs
                four bytes of memory a parameter; --no-exact leaves it out
    speed       of prompts and of decoding, in turn, round after round, each run in a process of its own; llama.cpp as
                it comes, and without repacking of weights
    memory      peaks of these processes, of the export with its child processes, file sizes, load times

What was made and measured lies below --work, in a folder for each content of a file, and in --out, from which a stopped
run continues. llama.cpp is that of
`make bench-peers`. docs/benchmarks.md says how to read the tables.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from benchmarks.common import REPOSITORY
from benchmarks.common.peak_memory import run_tree_measured
from benchmarks.common.records import Records
from benchmarks.common.timing import Ratio, ratio, summarize
from benchmarks.models.agreement import deviation, first_difference
from benchmarks.models.bench import measure, results, table
from benchmarks.models.variants import Variant, finish, python_of, set_accuracy_level
from dualbinary import DualBinaryError, InputError
from dualbinary.cli.console import add_common_options, run

__all__ = ["agreement", "folder_of", "main", "speeds"]

TEXTS = ("The capital of France is", "Once upon a time, in a small village by the sea,", "def fibonacci(n):")
RANDOM_LENGTHS = (8, 16, 24)  # of prompts for a file without a tokenizer
_WORK = Path("out/bench/same_gguf")
OURS = ("dualbinary level 0", "dualbinary level 4")
PEERS = ("llama.cpp", "llama.cpp, plain")
EXACT = "exact model"
EXPORT_NOTE = "export.json"
"""Beside an export: seconds, peak memory in bytes, and the exporter's own summary."""


def folder_of(source: Path, work: Path) -> Path:
    """Where what is made of `source` lies below `work`: files of one name and other bytes have nothing in common."""
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return work / f"{source.stem}-{digest[:16]}"


def _export(source: Path, path: Path) -> None:
    begin = time.perf_counter()
    print(f"$ python -m exporter {source} {path}", file=sys.stderr, flush=True)
    output, peak = run_tree_measured("exporter", source, path, "--json", "--quiet")
    note = {"seconds": time.perf_counter() - begin, "peak_bytes": peak, "summary": json.loads(output)}
    (path.parent / EXPORT_NOTE).write_text(json.dumps(note), encoding="utf-8")


def files(source: Path, work: Path) -> list[tuple[Variant, Path]]:
    """Return the variants and the file that each reads; ours are made where they are missing."""
    found = []
    for name, level in zip(OURS, (0, 4), strict=True):
        path = work / f"level{level}" / "model.onnx"
        if not path.exists() and level == 0:
            finish(path.parent, lambda scratch: _export(source, scratch / "model.onnx"))
        elif not path.exists():
            base = work / "level0" / path.name
            finish(path.parent, lambda scratch, base=base: set_accuracy_level(base, scratch / base.name, 4))
        found.append((_variant(name, "dualbinary", path), path))
    for name, repack in zip(PEERS, (True, False), strict=True):
        found.append((_variant(name, "llama.cpp", source, repack=repack), source))
    return found


def _variant(name: str, engine: str, path: Path, **options: Any) -> Variant:
    return Variant(name, engine, path.name, lambda _work, _path: None, options)


def prompts(export: Path) -> tuple[list[str], list[list[int]]]:
    """Return names and ids of the prompts: texts where the export has a tokenizer, else fixed random ids."""
    tokenizer = export / "tokenizer.json"
    if tokenizer.exists():
        loaded = Tokenizer.from_file(str(tokenizer))
        return list(TEXTS), [loaded.encode(text).ids for text in TEXTS]
    random = np.random.default_rng(0)
    rows = [random.integers(100, 200, size=length).tolist() for length in RANDOM_LENGTHS]
    return [f"{length} random ids" for length in RANDOM_LENGTHS], rows


def fed(
    variants: list[tuple[Variant, Path]], work: Path, ids: list[list[int]], tokens: int, exact: Path | None
) -> dict[str, np.ndarray]:
    """Return logits [prompts, tokens, V] by name, those of all fed with what the first variant finds most likely."""
    request: dict[str, Any] = {"prompts": ids, "following": None, "tokens": tokens, "threads": 1}
    found: dict[str, np.ndarray] = {}
    jobs = [(variant.name, variant.engine, path, variant.options) for variant, path in variants]
    jobs += [(EXACT, "exact", exact, {})] if exact else []
    for name, engine, path, options in jobs:
        stored = work / f"logits, {name}.npy"
        noted = work / f"logits, {name}.json"
        if not (stored.exists() and noted.exists() and json.loads(noted.read_text()) == request):
            print(f"logits of {name}", file=sys.stderr, flush=True)
            noted.unlink(missing_ok=True)
            asked = work / "request.json"
            asked.write_text(json.dumps(request))
            _feed(engine, path, asked, stored, options)
            noted.write_text(json.dumps(request))
        found[name] = np.load(stored, mmap_mode="r")
        if request["following"] is None:
            request["following"] = found[name].argmax(axis=2).tolist()
    return found


def _feed(engine: str, path: Path | None, request: Path, out: Path, options: dict[str, Any]) -> None:
    python = sys.executable if engine == "exact" else python_of(engine)
    words = [python, "-m", "benchmarks.models.fed_logits", engine, path, request, out, "--options", json.dumps(options)]
    done = subprocess.run([str(word) for word in words], check=False, capture_output=True, text=True, cwd=REPOSITORY)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise DualBinaryError(f"{engine}: {reason[0]}")


def agreement(logits: dict[str, np.ndarray], names: list[str]) -> list[dict[str, Any]]:
    """Return a row for each engine and prompt: deviation from the exact model, and the first difference from ours."""
    exact = logits[EXACT]
    first = next(iter(logits))
    rows = []
    for (engine, found), at in ((each, at) for each in logits.items() if each[0] != EXACT for at in range(len(names))):
        difference = first_difference(logits[first][at], found[at], exact[at])
        row = {"engine": engine, "prompt": names[at], "tokens": len(exact[at])}
        row |= asdict(deviation(found[at], exact[at]))
        rows.append(row | {"difference": asdict(difference) if difference else None})
    return rows


def agreement_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield (
        "| prompt | engine | as the exact model | rms error of logits | relative | KL | first difference from ours "
        "| gap: ours | theirs | exact | |"
    )
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
    for row in rows:
        found = row["difference"]
        cells = [row["prompt"], row["engine"], f"{row['same_top']} of {row['tokens']}"]
        cells += [f"{row['rms']:.1e}", f"{row['relative']:.1e}", f"{row['kl']:.1e}"]
        if found is None:
            cells += ["none", "", "", "", "same"]
        else:
            cells += [f"token {found['place'] + 1}", *(f"{gap:+.4f}" for gap in found["gaps"]), found["verdict"]]
        yield f"| {' | '.join(cells)} |"


def speeds(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how many times as fast as llama.cpp ours are: a row for each of ours and each number of threads.

    The other is the faster of llama.cpp's ways, in each column. `cpu` is the same of the time that all threads of the
    processes took, which a busy machine changes less; threads that wait by spinning are in it.
    """
    rows = []
    for threads in sorted({record["threads"] for record in records}):
        by_name = {
            name: sorted((r for r in records if (r["variant"], r["threads"]) == (name, threads)), key=_round)
            for name in (*OURS, *PEERS)
        }
        peers = [found for name in PEERS if (found := by_name[name])]
        for name in OURS:
            if not by_name[name] or not peers:
                continue
            row: dict[str, Any] = {"engine": name, "threads": threads, "rounds": len(by_name[name])}
            for column in ("token", *by_name[name][0]["prompt_seconds"]):
                row[column] = vars(_against(peers, by_name[name], column, "seconds"))
                row[column]["cpu"] = _against(peers, by_name[name], column, "cpu_seconds").median
            rows.append(row)
    return rows


def _round(record: dict[str, Any]) -> int:
    return record["round"]


def _against(peers: list[list[dict[str, Any]]], own: list[dict[str, Any]], column: str, unit: str) -> Ratio:
    """Divide the times of the faster peer by ours, over the rounds that both have."""

    def times(found: list[dict[str, Any]]) -> dict[int, float]:
        return {
            record["round"]: record[f"token_{unit}"] if column == "token" else record[f"prompt_{unit}"][column]
            for record in found
        }

    fastest = min((times(found) for found in peers), key=lambda found: summarize(list(found.values())).median)
    mine = times(own)
    both = sorted(mine.keys() & fastest.keys())
    return ratio([fastest[count] for count in both], [mine[count] for count in both])


def speed_table(rows: list[dict[str, Any]], prompt_lengths: list[int]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    columns = ["token", *map(str, prompt_lengths)]
    heads = ["decode", *(f"prompt {length}" for length in prompt_lengths)]
    yield f"| times as fast as llama.cpp | threads | {' | '.join(f'{head} | cpu' for head in heads)} |"
    yield f"| --- | ---: |{' ---: | ---: |' * len(heads)}"
    for row in rows:
        cells = [row["engine"], str(row["threads"])]
        for column in columns:
            found = row[column]
            cells += [f"{found['median']:.2f} ({found['low']:.2f}–{found['high']:.2f})", f"{found['cpu']:.2f}"]
        yield f"| {' | '.join(cells)} |"


def _command(args: argparse.Namespace) -> None:
    source = args.file.resolve()
    if not source.is_file():
        raise InputError(f"{args.file}: no such file")
    python_of("llama.cpp")
    work = folder_of(source, args.work.resolve())
    records = Records(args.out, {"file": work.name, "prompts": args.prompts, "tokens": args.tokens})
    work.mkdir(parents=True, exist_ok=True)
    found = files(source, work)
    names, ids = prompts(work / "level0")
    exact = None if args.no_exact else source
    logits = fed(found, work, ids, args.greedy, exact)
    agreed = agreement(logits, names) if exact else []
    missing: dict[str, str] = {}
    measure(source.stem, found, args, records, missing)
    export = json.loads((work / "level0" / EXPORT_NOTE).read_text(encoding="utf-8"))
    speed = speeds(records.records)
    if args.json:
        parts = {"agreement": agreed, "speeds": speed, "results": results(records.content, OURS[1]), "export": export}
        print(json.dumps({**records.content, **parts, "missing": missing}))
        return
    print(f"export: {export['seconds']:.0f} s, at most {export['peak_bytes'] / 1e6:.0f} MB with its child processes\n")
    for lines in (
        agreement_table(agreed) if agreed else (),
        table(results(records.content, OURS[1])),
        speed_table(speed, args.prompts),
    ):
        print("\n".join(lines), end="\n\n")
    for name, reason in missing.items():
        print(f"not measured: {name}: {reason}")


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models.same_gguf", description="One GGUF file here and in llama.cpp."
    )
    parser.add_argument("file", type=Path, metavar="FILE.gguf")
    parser.add_argument("--greedy", type=int, default=64, metavar="N", help="tokens to compare (default 64)")
    parser.add_argument("--no-exact", action="store_true", help="measure speed and memory alone")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="T", help="default 1 2")
    parser.add_argument("--prompts", nargs="+", type=int, default=[128, 512], metavar="N", help="default 128 512")
    parser.add_argument(
        "--tokens", type=int, default=64, metavar="N", help="to time after the first prompt (default 64)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="default 5; may be raised when a run continues")
    parser.add_argument("--pause", type=float, default=1.0, metavar="S", help="seconds between runs (default 1)")
    parser.add_argument("--work", type=Path, default=_WORK, metavar="DIR", help=f"default {_WORK}")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="JSON file of the measurements; a stopped run continues from it"
    )
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
