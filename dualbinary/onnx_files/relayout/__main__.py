"""`python -m dualbinary relayout IN.onnx OUT.onnx --layout NAME`: change the stored layout of an exported model."""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from dualbinary.cli.console import add_common_options, interrupt_when_terminated, run, state_of
from dualbinary.cli.options import add_options, option, options_from
from dualbinary.contract.layout import CODES
from dualbinary.contract.schema import OP
from dualbinary.errors import DualBinaryError

__all__ = ["RelayoutOptions", "main"]

_EPILOG = """\
layouts:
  plain                every CPU reads it; weights are repacked when a session is created. A model whose fallback
                       function computes of codes (even levels of 2, 4 or 8 planes) has them in layout codes then
  avx512, avx2, neon   ready for one instruction set: a session maps the file, copies nothing and starts at once.
                       A CPU without it refuses the file by name; the way back is --layout plain, byte for byte
                       (`python -m runtime_ext info` lists what this machine reads)
"""
_CHOICES = tuple(layout.name for layout in OP.layouts if layout.name != CODES)


@dataclass(frozen=True)
class RelayoutOptions:
    """Options of the command."""

    layout: str = option(help="layout of the new file", choices=_CHOICES)
    force: bool = option(False, help="replace existing files")
    quiet: bool = option(False, help="no progress bar")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="dualbinary relayout",
        description="Rewrite an exported model with its weights in another stored layout. Their values stay the same.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("source", type=Path, metavar="IN.onnx", help="an exported model; its data file lies beside it")
    result.add_argument(
        "out",
        type=Path,
        metavar="OUT.onnx",
        help="file to write, with OUT.onnx.data; in another directory tokenizer and configuration come along",
    )
    add_options(result, RelayoutOptions)
    add_common_options(result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    interrupt_when_terminated()
    return run(parser, _command, argv, kept=lambda args: state_of(args.out))


def _command(args: argparse.Namespace) -> None:
    try:
        from tqdm import tqdm

        from dualbinary.onnx_files.relayout.convert import relayout
    except ModuleNotFoundError as error:  # a device needs neither to run a model
        raise DualBinaryError(f"{error}; pip install 'dualbinary[relayout]' has what relayout needs") from error

    options = options_from(args, RelayoutOptions)
    begin = time.perf_counter()
    shown = not options.quiet and sys.stderr.isatty()
    with tqdm(unit="B", unit_scale=True, desc=options.layout, disable=not shown, file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        outcome = relayout(args.source, args.out, options.layout, force=options.force, progress=progress)
    seconds = time.perf_counter() - begin
    if args.json:
        print(json.dumps({"out": str(args.out), "seconds": round(seconds, 2), **asdict(outcome)}))
        return
    print(
        f"{args.out}: {outcome.weights} weights from {' and '.join(outcome.before)} to {outcome.layout}, "
        f"{outcome.data_bytes / 1e6:.1f} MB, in {seconds:.1f} s"
    )
    if outcome.kept:
        print(f"{outcome.kept} more stay as they are: other nodes read their planes too, as an embedding does")


if __name__ == "__main__":
    sys.exit(main())
