"""`python -m calib report OUT_DIR`: what a run did, as tables, as JSON or as a page with pictures."""

import argparse
import json
from pathlib import Path
from typing import Any

from calib.report.options import AnalysisOptions
from dualbinary import InputError
from dualbinary.cli.console import add_common_options, run
from dualbinary.cli.options import add_options, options_from
from dualbinary.files.atomic import write_text

__all__ = ["main"]

PAGE_FILE = "report.html"

_EPILOG = """\
examples:
  python -m calib report smollm2-fdb
  python -m calib report smollm2-fdb --html
  python -m calib report smollm2-fdb --html --analyze book.txt --model SmolLM2-135M

Analyses are kept in OUT_DIR/analyses.json; later pages show them without --analyze.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m calib report",
        description="What a calibration did, layer by layer.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("directory", type=Path, metavar="OUT_DIR", help="a checkpoint that python -m calib wrote")
    page = f"write a page with pictures (default OUT_DIR/{PAGE_FILE})"
    result.add_argument("--html", type=Path, nargs="?", const=Path(), metavar="FILE", help=page)
    add_options(result, AnalysisOptions)
    add_common_options(result)
    return result


def main(argv: list[str]) -> int:
    """Run the command and return its exit code."""
    return run(parser, _command, argv)


def _command(args: argparse.Namespace) -> None:
    from calib.report.analyses import read_analyses
    from calib.report.record import read_record
    from calib.report.summary import flops, table, totals

    options = options_from(args, AnalysisOptions)
    if bool(options.analyze) != bool(options.model):
        raise InputError("--analyze TEXT and --model MODEL_DIR: expected both or neither")
    record = read_record(args.directory)
    analyses = _analyze(args.directory, options) if options.model else read_analyses(args.directory)
    page = None
    if args.html is not None:
        page = args.directory / PAGE_FILE if args.html == Path() else args.html
        _write_page(page, record, analyses)
    if args.json:
        extra = {"totals": totals(record), "flops": flops(record), "analyses": analyses, "html": page and str(page)}
        print(json.dumps({"directory": str(args.directory), **record, **extra}))
        return
    print(table(record))
    if analyses:
        print("\n".join(["", *_findings(analyses)]))
    if page:
        print(f"\npage: {page}")


def _write_page(file: Path, record: dict[str, Any], analyses: dict[str, Any] | None) -> None:
    from calib.report.page import page

    if file.is_dir():
        raise InputError(f"--html {file}: a directory; expected a file to write")
    write_text(file, page(record, analyses))


def _analyze(directory: Path, options: AnalysisOptions) -> dict[str, Any]:
    from calib.parallel import Team
    from calib.progress import Bars
    from calib.report.analyze import analyze

    device = Team.launched(options.device).device
    with Bars(shown=not options.quiet) as bars:
        return analyze(directory, options, device, bars.show)


def _findings(analyses: dict[str, Any]) -> list[str]:
    """The analyses in a few lines."""
    from calib.report.files import plain

    lines = []
    for name, table in analyses["preference"]["models"].items():
        leans = ", ".join(
            f"{key} {value:+.4f}" for key, value in table["balance"].items() if isinstance(value, float | int)
        )
        lines.append(f"leaning to frequent tokens, {name}: {leans} (0: like the full-precision model)")
    landscape = analyses["landscape"]
    rises = ", ".join(f"{name} {valley['rise']:.4f}" for name, valley in landscape["formats"].items())
    lines.append(f"mean rise of the loss around the levels of {plain(landscape['layer'])}, nats: {rises}")
    return lines
