"""Speed and memory of whole models, beside llama.cpp and onnxruntime-genai, each in its own process, in turn.

    python -m benchmarks.models.bench [--models llama-1b smollm2] [--threads 2] [--rounds 5] [--out FILE]
    python -m benchmarks.models.bench --provider cuda        beside the float16 model, on a GPU

Files are made on first use below --work (a synthetic model of 1.1 billion parameters, SmolLM2, and what each engine
reads: about 9 GB, and half an hour). A peer that is not installed is named and left out; `make bench-peers` installs
them. With --out a run that was stopped continues. docs/benchmarks.md says how to read the table.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.common.machine import OtherLoad
from benchmarks.common.records import Records
from benchmarks.common.timing import ratio, summarize
from benchmarks.models.floor import measured_floor
from benchmarks.models.variants import (
    CUDA_VARIANTS,
    MODELS,
    VARIANTS,
    Variant,
    file_bytes,
    make_file,
    measure_round,
    python_of,
)
from dualbinary import DualBinaryError
from dualbinary.cli.console import add_common_options, run

__all__ = ["main", "measure", "results", "table"]

SETS = {"cpu": VARIANTS, "cuda": CUDA_VARIANTS}
"""Variants for each provider of ONNX Runtime; ratios are against the first."""
ESTIMATED_SECONDS = 20.0  # of one round of one engine, for the estimate before the first


def _command(args: argparse.Namespace) -> None:
    settings = {"prompts": args.prompts, "tokens": args.tokens}
    if args.provider != "cpu":  # files from before there was a choice have no such key
        settings["provider"] = args.provider
    records = Records(args.out, settings)
    missing: dict[str, str] = {}
    for model in args.models:
        found = _files(model, args.work / model, SETS[args.provider], args.variants, missing)
        measure(model, found, args, records, missing)
    rows = results(records.content)
    if args.json:
        print(json.dumps({**records.content, "results": rows, "missing": missing}))
        return
    print("\n".join(table(rows)))
    for name, reason in missing.items():
        print(f"not measured: {name}: {reason}")


def _files(
    model: str, work: Path, variants: tuple[Variant, ...], wanted: list[str] | None, missing: dict[str, str]
) -> list[tuple[Variant, Path]]:
    """Return the file of every variant that can be made; the reasons for the others go to `missing`."""
    found: list[tuple[Variant, Path]] = []
    for variant in variants:
        if model not in variant.models or (wanted and not any(word in variant.name for word in wanted)):
            continue
        try:
            python_of(variant.engine)
            found.append((variant, make_file(variant, model, work)))
        except (DualBinaryError, OSError) as error:
            missing[f"{model}, {variant.name}"] = str(error)
    return found


def measure(
    model: str,
    files: list[tuple[Variant, Path]],
    args: argparse.Namespace,
    records: Records,
    missing: dict[str, str],
) -> None:
    """Measure the rounds that the file lacks, variants in turn, each round beginning with another one.

    A variant that fails goes to `missing` and has no more turns.
    """
    jobs = []
    for threads, count in itertools.product(args.threads, range(args.rounds)):
        first = count % max(1, len(files))
        for variant, path in files[first:] + files[:first]:
            key = f"{model}, {variant.name}, {threads} threads, round {count}"
            if key not in records:
                jobs.append((key, variant, path, threads, count))
    if not jobs:
        return
    print(
        f"{model}: {len(jobs)} runs, at a first estimate {len(jobs) * ESTIMATED_SECONDS / 60:.0f} minutes",
        file=sys.stderr,
    )
    for key, variant, path, threads, count in (bar := tqdm(jobs, unit="run", file=sys.stderr)):
        bar.set_description(key)
        if (name := f"{model}, {variant.name}") in missing:
            continue
        try:
            with OtherLoad() as load:
                values = measure_round(path, variant, threads, args.prompts, args.tokens)
        except DualBinaryError as error:  # one failure must not cost the hours of the others
            missing[name] = str(error)
            continue
        facts = {"model": model, "variant": variant.name, "threads": threads, "round": count}
        if variant.options.get("provider", "cpu") == "cpu":  # a GPU reads memory of its own
            facts |= measured_floor(path, threads).record(values["token_seconds"])
        records.add(key, **facts, **values, file_bytes=file_bytes(path), other_cores=load.cores)
        time.sleep(args.pause)


def results(content: dict[str, Any], ours: str | None = None) -> list[dict[str, Any]]:
    """Return a flat record for each model, number of threads and variant: medians over its rounds, and ratios.

    Ratios are against the variant `ours`; by default the first of the provider's variants.
    """
    ours = ours or SETS[content.get("settings", {}).get("provider", "cpu")][0].name
    groups: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = {}
    for record in content["records"]:
        group = groups.setdefault((record["model"], record["threads"]), {})
        group.setdefault(record["variant"], []).append(record)
    return [
        _result(model, threads, name, rounds, group.get(ours))
        for (model, threads), group in groups.items()
        for name, rounds in group.items()
    ]


def _result(
    model: str, threads: int, name: str, rounds: list[dict[str, Any]], ours: list[dict[str, Any]] | None
) -> dict[str, Any]:
    lengths = list(rounds[0]["prompt_seconds"])
    columns = {
        "token": [record["token_seconds"] for record in rounds],
        **{length: [record["prompt_seconds"][length] for record in rounds] for length in lengths},
    }
    others = [record["other_cores"] for record in rounds if record["other_cores"] is not None]
    return {
        "model": model,
        "threads": threads,
        "variant": name,
        "rounds": len(rounds),
        "file_bytes": rounds[0]["file_bytes"],
        "load_seconds": summarize([record["load_seconds"] for record in rounds]).median,
        "decode_tokens_per_second": 1 / summarize(columns["token"]).median,
        "decode_spread": summarize(columns["token"]).spread,
        "of_floor": _of_floor(rounds),
        "prompt_tokens_per_second": {n: int(n) / summarize(columns[n]).median for n in lengths},
        "bare_bytes": summarize([record["bare_bytes"] for record in rounds]).median,
        "loaded_bytes": summarize([record["loaded_bytes"] for record in rounds]).median,
        "peak_bytes": summarize([record["peak_bytes"] for record in rounds]).median,
        "slower_than_ours": {} if ours is None else _ratios(columns, rounds, ours),
        "other_cores": max(others, default=None),
    }


def _of_floor(rounds: list[dict[str, Any]]) -> float | None:
    """Median over the rounds; files from before it was measured have none."""
    found = [record["of_floor"] for record in rounds if "of_floor" in record]
    return summarize(found).median if found else None


def _ratios(
    columns: dict[str, list[float]], rounds: list[dict[str, Any]], ours: list[dict[str, Any]]
) -> dict[str, dict[str, float]]:
    """Divide the times of this variant by ours, over the rounds that both have."""
    both = {record["round"]: record for record in ours}
    pairs = [(index, both[record["round"]]) for index, record in enumerate(rounds) if record["round"] in both]
    own = {
        name: [mine["token_seconds"] if name == "token" else mine["prompt_seconds"][name] for _, mine in pairs]
        for name in columns
    }
    return (
        {name: vars(ratio([each[i] for i, _ in pairs], own[name])) for name, each in columns.items()} if pairs else {}
    )


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a Markdown table; a speed is followed by how many times as fast the first variant is."""
    if not rows:
        return
    lengths = list(rows[0]["prompt_tokens_per_second"])
    prompts = [f"prompt {length} tok/s" for length in lengths]
    head = ["model", "threads", "variant", "file MB", "load s", "decode tok/s", "of the floor", *prompts]
    head += ["memory MB: bare", "loaded", "peak", "rounds", "other cores"]
    yield f"| {' | '.join(head)} |"
    yield "| --- | ---: | --- |" + " ---: |" * (len(head) - 3)
    for row in rows:
        slower = row["slower_than_ours"]
        other = row["other_cores"]
        cells = [
            row["model"],
            str(row["threads"]),
            row["variant"],
            f"{row['file_bytes'] / 1e6:.0f}",
            f"{row['load_seconds']:.2f}",
            _speed(row["decode_tokens_per_second"], slower.get("token")),
            "" if row["of_floor"] is None else f"{row['of_floor']:.2f}",
            *(_speed(row["prompt_tokens_per_second"][n], slower.get(n)) for n in lengths),
            *(f"{row[name] / 1e6:.0f}" for name in ("bare_bytes", "loaded_bytes", "peak_bytes")),
            str(row["rounds"]),
            "?" if other is None else f"{other:.1f}",
        ]
        yield f"| {' | '.join(cells)} |"


def _speed(speed: float, slower: dict[str, float] | None) -> str:
    if slower is None:
        return f"{speed:.1f}"
    return f"{speed:.1f}, {slower['median']:.2f}x ({slower['low']:.2f}–{slower['high']:.2f})"


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models.bench", description="Whole models, beside llama.cpp and onnxruntime-genai."
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="default: all")
    parser.add_argument(
        "--provider", choices=SETS, default="cpu", help="default cpu; cuda compares with the float16 model"
    )
    parser.add_argument(
        "--variants", nargs="+", metavar="WORD", help="only those whose name contains one of these words"
    )
    parser.add_argument("--threads", nargs="+", type=int, default=[2], metavar="T", help="default 2")
    parser.add_argument("--prompts", nargs="+", type=int, default=[128, 512], metavar="N", help="default 128 512")
    parser.add_argument(
        "--tokens", type=int, default=64, metavar="N", help="to decode after the first prompt (default 64)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="default 5; may be raised when a run continues")
    parser.add_argument("--pause", type=float, default=1.0, metavar="S", help="seconds between runs (default 1)")
    parser.add_argument("--work", type=Path, default=Path("out/bench"), metavar="DIR", help="default out/bench")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="JSON file of the measurements; a stopped run continues from it"
    )
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
