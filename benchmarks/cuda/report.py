"""Table and verdicts from the measurements of the CUDA benchmark.

    python -m benchmarks.cuda.report FILE [--require] [--json]

The verdicts are the project's aims for its CUDA kernels; --require makes an aim that is missed or unmeasured an error.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.timing import ratio, summarize
from benchmarks.cuda.contenders import CUBLAS, OURS
from dualbinary import DualBinaryError
from dualbinary.cli.console import add_common_options, run
from dualbinary.files.json_objects import read_json_object

__all__ = ["main", "print_report", "results", "table", "verdicts"]

LARGE = 32_000_000  # weights; a smaller matrix is too short a read to fill the memory system
COLUMNS = ("N x K", "M", "G", "contender", "kernel", "us", "launched", "spread", "GB/s", "of read", "TFLOP/s")
PASS, FAIL, NOT_MEASURED = "PASS", "FAIL", "NOT MEASURED"


@dataclass(frozen=True)
class Aim:
    """A figure that every row of the library's own choice must reach, where `concerns` says so."""

    words: str
    minimum: float
    unit: str
    concerns: Callable[[dict[str, Any]], bool]
    figure: Callable[[dict[str, Any]], float | None]


def _over_cublas(row: dict[str, Any]) -> float | None:
    return row["ratios"].get(CUBLAS, {}).get("median")


AIMS = (
    Aim(
        "M = 1, more than 32 M weights: share of the device's read bandwidth",
        0.75,
        "",
        lambda row: row["M"] == 1 and row["N"] * row["K"] > LARGE,
        lambda row: row["of_read"],
    ),
    Aim(
        "M = 1, more than 32 M weights: speed over cuBLAS float16",
        5.0,
        "x",
        lambda row: row["M"] == 1 and row["N"] * row["K"] > LARGE,
        _over_cublas,
    ),
    Aim("M >= 128: TFLOP/s over cuBLAS float16", 0.7, "x", lambda row: row["M"] >= 128, _over_cublas),
)


def results(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a flat record for each point and contender; docs/benchmarks.md explains the figures."""
    return [row for record in content["records"] for row in _rows(record)]


def _rows(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    N, K, M = record["N"], record["K"], record["M"]
    read_rate = max(each["bytes"] / summarize(each["seconds"]).median for each in record["reads"].values())
    times = {name: _device_times(contender) for name, contender in record["contenders"].items()}
    peers = [name for name in times if not name.startswith(OURS)]
    for name, contender in record["contenders"].items():
        summary = summarize(times[name])
        launched = contender["seconds"].get("launch")
        rate = contender["stored_bytes"] / summary.median
        yield {
            **{field: record[field] for field in ("N", "K", "M", "G")},
            "contender": name,
            "kernel": contender.get("kernel"),
            "us": summary.median * 1e6,
            "us_launched": None if launched is None else summarize(launched).median * 1e6,
            "spread": summary.spread,
            "GB/s": rate / 1e9,
            "read_GB/s": read_rate / 1e9,
            "of_read": rate / read_rate,
            "TFLOP/s": 2 * M * N * K / summary.median / 1e12,
            "ratios": {peer: vars(ratio(times[peer], times[name])) for peer in peers} if name not in peers else {},
        }


def _device_times(contender: dict[str, Any]) -> list[float]:
    """Return the times of replayed graphs, without launch overhead, where there are any."""
    seconds = contender["seconds"]
    return seconds.get("replay") or seconds["launch"]


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a Markdown table; beside each ratio stand the quartiles of the rounds' ratios."""
    peers = list(dict.fromkeys(peer for row in rows for peer in row["ratios"]))
    head = [*COLUMNS, *(f"x {peer}" for peer in peers)]
    yield f"| {' | '.join(head)} |"
    yield "| --- | ---: | ---: | --- | --- |" + " ---: |" * (len(head) - 5)
    for row in rows:
        ratios = [row["ratios"].get(peer) for peer in peers]
        cells = [
            f"{row['N']}x{row['K']}",
            str(row["M"]),
            str(row["G"]),
            row["contender"],
            row["kernel"] or "",
            f"{row['us']:.1f}",
            "" if row["us_launched"] is None else f"{row['us_launched']:.1f}",
            f"{row['spread']:.0%}",
            f"{row['GB/s']:.0f}",
            f"{row['of_read']:.0%} of {row['read_GB/s']:.0f}",
            f"{row['TFLOP/s']:.1f}",
            *("" if r is None else f"{r['median']:.2f} ({r['low']:.2f}–{r['high']:.2f})" for r in ratios),
        ]
        yield f"| {' | '.join(cells)} |"


def verdicts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Judge each aim by the row that is furthest from it; forced kernels do not count."""
    own = [row for row in rows if row["contender"].startswith(OURS) and "@" not in row["contender"]]
    return [_verdict(aim, own) for aim in AIMS]


def _verdict(aim: Aim, rows: list[dict[str, Any]]) -> dict[str, Any]:
    found = [(figure, row) for row in rows if aim.concerns(row) and (figure := aim.figure(row)) is not None]
    missing = sum(aim.concerns(row) for row in rows) - len(found)
    verdict = {"aim": aim.words, "least": aim.minimum, "points": len(found), "worst": None, "at": None}
    if not found or missing:
        detail = "no point was measured" if not found else f"{missing} points lack it"
        return {**verdict, "verdict": NOT_MEASURED, "detail": detail}
    worst, row = min(found, key=lambda each: each[0])
    below = sum(figure < aim.minimum for figure, _ in found)
    where = f"{row['N']}x{row['K']} M={row['M']} G={row['G']} {row['contender']}"
    return {
        **verdict,
        "verdict": FAIL if below else PASS,
        "worst": worst,
        "at": where,
        "detail": f"worst {worst:.2f}{aim.unit} at {where}; {below} of {len(found)} below",
    }


def print_report(content: dict[str, Any], *, as_json: bool, require: bool) -> None:
    """Print table and verdicts. With `require`, raises DualBinaryError unless all aims are reached."""
    rows = results(content)
    judged = verdicts(rows)
    if as_json:
        print(json.dumps({**content, "results": rows, "verdicts": judged}))
    else:
        print("\n".join(table(rows)))
        print()
        for name, reason in _missing(content).items():
            print(f"not measured: {name}: {reason}")
        for each in judged:
            print(f"{each['verdict']}: {each['aim']}, at least {each['least']}: {each['detail']}")
    missed = [each["aim"] for each in judged if each["verdict"] != PASS]
    if require and missed:
        raise DualBinaryError(f"{len(missed)} of {len(judged)} aims not reached: {'; '.join(missed)}")


def _missing(content: dict[str, Any]) -> dict[str, str]:
    """Return the contenders that took no part in some point, and why."""
    return {name: reason for record in content["records"] for name, reason in record["missing"].items()}


def _command(args: argparse.Namespace) -> None:
    print_report(read_json_object(args.file), as_json=args.json, require=args.require)


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cuda.report", description="Table and verdicts of the CUDA benchmark."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="file that benchmarks.cuda.bench --out wrote")
    parser.add_argument("--require", action="store_true", help="exit with 1 unless every aim is measured and reached")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
