"""Table and plot of the measurements of the kernel benchmark.

python -m benchmarks.kernels.report FILE [--plot docs/figures/kernels.svg] [--json]
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common.timing import ratio, summarize
from dualbinary import InputError
from dualbinary.cli.console import add_common_options, run
from dualbinary.files.json_objects import read_json_object

__all__ = ["main", "results", "table"]

COLUMNS = ("N x K", "M", "threads", "contender", "us", "best", "spread", "Gw/s", "GOPS", "GB/s", "of read")
DECODE_ROWS, PREFILL_ROWS = 1, 128  # what the plot shows


def results(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a flat record for each point and contender; docs/benchmarks.md explains the figures."""
    return [row for record in content["records"] for row in _rows(record)]


def _rows(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    N, K, M = record["N"], record["K"], record["M"]
    # The best prefetch distance, by its median: the read is judged as the products are.
    read_rate = record["read"]["bytes"] / min(summarize(times).median for times in record["read"]["seconds"])
    times = {name: contender["seconds"] for name, contender in record["contenders"].items()}
    peers = [name for name in times if _is_peer(name)]
    for name, contender in record["contenders"].items():
        summary = summarize(times[name])
        rate = contender["stored_bytes"] / summary.median
        yield {
            **{field: record[field] for field in ("N", "K", "M", "threads")},
            "contender": name,
            "us": summary.median * 1e6,
            "us_best": summary.best * 1e6,
            "spread": summary.spread,
            "Gweights/s": N * K / summary.median / 1e9,
            "GOPS": 2 * M * N * K / summary.median / 1e9,
            "GB/s": rate / 1e9,
            "read_GB/s": read_rate / 1e9,
            "of_read": rate / read_rate,
            "other_cores": record["other_cores"],
            "ratios": {} if _is_peer(name) else {peer: vars(ratio(times[peer], times[name])) for peer in peers},
        }


def _is_peer(name: str) -> bool:
    return not name.startswith("dualbinary")


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a Markdown table; beside each ratio stand the quartiles of the rounds' ratios."""
    peers = list(dict.fromkeys(peer for row in rows for peer in row["ratios"]))
    head = [*COLUMNS, *(f"x {peer}" for peer in peers), "other cores"]
    yield f"| {' | '.join(head)} |"
    yield "| --- | ---: | ---: | --- |" + " ---: |" * (len(head) - 4)
    for row in rows:
        ratios = [row["ratios"].get(peer) for peer in peers]
        other = row["other_cores"]
        cells = [
            f"{row['N']}x{row['K']}",
            str(row["M"]),
            str(row["threads"]),
            row["contender"],
            f"{row['us']:.1f}",
            f"{row['us_best']:.1f}",
            f"{row['spread']:.0%}",
            f"{row['Gweights/s']:.1f}",
            f"{row['GOPS']:.0f}",
            f"{row['GB/s']:.1f}",
            f"{row['of_read']:.0%} of {row['read_GB/s']:.1f}",
            *("" if r is None else f"{r['median']:.2f} ({r['low']:.2f}–{r['high']:.2f})" for r in ratios),
            "?" if other is None else f"{other:.1f}",
        ]
        yield f"| {' | '.join(cells)} |"


def plot(content: dict[str, Any], path: Path) -> None:
    """Plot M = 1 and M = 128 at every shape, a row of panels per number of threads; raises InputError without both."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "dualbinary"  # the same measurements give the same file
    from matplotlib import pyplot as plt

    rows = results(content)
    threads = sorted({row["threads"] for row in rows})
    figure, axes = plt.subplots(len(threads), 2, figsize=(12, 3.6 * len(threads)), squeeze=False, layout="constrained")
    for count, (decode, prefill) in zip(threads, axes, strict=True):
        of_threads = [row for row in rows if row["threads"] == count]
        words = f"{count} thread{'s' if count > 1 else ''}"
        _panel(decode, [r for r in of_threads if r["M"] == DECODE_ROWS], "Gweights/s", f"M = {DECODE_ROWS}, {words}")
        _panel(prefill, [r for r in of_threads if r["M"] == PREFILL_ROWS], "GOPS", f"M = {PREFILL_ROWS}, {words}")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=8, fontsize="small")
    machine, busy = content["machine"], [row["other_cores"] or 0 for row in rows]
    figure.suptitle(
        f"{machine['cpu']}, {machine['cores']} cores, onnxruntime {machine['onnxruntime']}; "
        f"other processes took up to {max(busy):.1f} cores",
        fontsize="medium",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(path, metadata=metadata)
    plt.close(figure)


def _panel(axes: Any, rows: list[dict[str, Any]], quantity: str, title: str) -> None:
    if not rows:
        raise InputError(f"--plot: nothing was measured for {title}; measure M = {DECODE_ROWS} and {PREFILL_ROWS}")
    shapes = list(dict.fromkeys((row["N"], row["K"]) for row in rows))
    names = list(dict.fromkeys(row["contender"] for row in rows))
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        of_shape = {(row["N"], row["K"]): row for row in rows if row["contender"] == name}
        places = [place + (index + 0.5) * width - 0.4 for place in range(len(shapes))]
        axes.bar(places, [of_shape[shape][quantity] for shape in shapes], width, label=name)
        if quantity == "Gweights/s":
            limits = [of_shape[shape][quantity] / of_shape[shape]["of_read"] for shape in shapes]
            label = "limit of a plain read" if index == len(names) - 1 else None
            edges = [place - width / 2 for place in places], [place + width / 2 for place in places]
            axes.hlines(limits, *edges, color="black", linewidth=1.2, label=label)
    axes.set_xticks(range(len(shapes)), [f"{N}x{K}" for N, K in shapes], rotation=20, fontsize="small")
    axes.set_ylabel(f"{quantity}, median")
    axes.set_title(title, fontsize="medium")


def _command(args: argparse.Namespace) -> None:
    content = read_json_object(args.file)
    if args.plot is not None:
        plot(content, args.plot)
    rows = results(content)
    print(json.dumps(rows) if args.json else "\n".join(table(rows)))


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels.report", description="Table and plot of the kernel benchmark."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="file that benchmarks.kernels.bench --out wrote")
    parser.add_argument("--plot", type=Path, metavar="IMAGE", help="write a plot, .svg or .png")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
