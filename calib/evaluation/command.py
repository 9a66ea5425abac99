"""`python -m calib eval MODEL_DIR [SUBJECT ...] --text FILE`: perplexity, and how far models are from the first one.

A subject is a checkpoint of MODEL_DIR, another model directory, or an exported .onnx file. For each window of T tokens
a model sees all of it at once, and the mean is over the T - 1 tokens that follow another. Text is read as it is and
tokenized without special tokens; windows do not overlap. Figures are those of dualbinary/evaluation/figures.py.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from calib.data.collect import first_windows
from calib.evaluation.measure import Answering, evaluate, no_tasks
from calib.evaluation.subjects import Subject, open_subject
from calib.evaluation.tasks import answering
from calib.models.blocks import compute_dtype
from calib.models.source import SourceModel, check_length
from calib.parallel import Team
from dualbinary import InputError
from dualbinary.cli.console import add_common_options, interrupt_when_terminated, run
from dualbinary.cli.options import add_options, option, options_from
from dualbinary.contract.weight import PlaneFormat
from dualbinary.evaluation.figures import ModelFigures
from dualbinary.evaluation.table import render
from dualbinary.evaluation.tasks import TaskOptions
from dualbinary.evaluation.texts import TEXT_HELP, NamedText, check_windows, named_texts
from dualbinary.files.atomic import check_file, write_text
from dualbinary.files.model_files import TOKENIZER

__all__ = ["EvalOptions", "main"]

ANY_FORMAT = PlaneFormat(2, 64)  # until a checkpoint gives layers theirs

_EPILOG = """\
examples:
  python -m calib eval MODEL_DIR CHECKPOINT out/model.onnx --text wiki.test.raw prose.txt.xz code='src/*.txt'
  python -m calib eval MODEL_DIR CHECKPOINT --tasks hellaswag,arc_easy,piqa --limit 200
  python -m calib eval MODEL_DIR out/model.onnx --tasks hellaswag=hellaswag_val.jsonl        where no hub is reachable
"""


@dataclass(frozen=True)
class EvalOptions:
    """Options of the command."""

    text: tuple[str, ...] = option((), help=TEXT_HELP, metavar="[NAME=]FILE", nargs="+")
    windows: int = option(40, help="the first N windows of each text")
    length: int = option(512, help="tokens in a window", metavar="T")
    dtype: Literal["auto", "float32", "bfloat16"] = option("float32", help="of products in PyTorch")
    device: str | None = option(None, help="cpu, cuda, mps", shown="default: the best there is", metavar="NAME")
    out: Path | None = option(None, help="write what --json prints to a file as well", metavar="FILE")
    quiet: bool = option(False, help="no progress bar")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m calib eval",
        description="Perplexity of a model and of others made from it, how far they are apart, and answers of tasks.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("model_dir", type=Path, metavar="MODEL_DIR", help="full-precision model directory")
    result.add_argument(
        "subjects", type=Path, nargs="*", metavar="SUBJECT", help="checkpoint, other model directory, or .onnx file"
    )
    add_options(result, EvalOptions, TaskOptions)
    add_common_options(result)
    return result


def main(argv: list[str]) -> int:
    """Run the command and return its exit code."""
    interrupt_when_terminated()
    return run(parser, _command, argv)


def _command(args: argparse.Namespace) -> None:
    options, tasks = options_from(args, EvalOptions), options_from(args, TaskOptions)
    if not options.text and not tasks.names:
        raise InputError("nothing to measure; give --text FILE, or --tasks NAME")
    if options.out is not None:
        check_file(options.out)
    check_windows(options.windows, options.length)
    subjects = [open_subject(path) for path in args.subjects]
    source = SourceModel(args.model_dir, ANY_FORMAT)
    windows = _windows(source, subjects, named_texts(options.text), options)
    device = Team.launched(options.device).device
    dtype = compute_dtype(options.dtype, device)
    shown = not options.quiet and sys.stderr.isatty()
    answer = answering(args.model_dir, tasks, dtype, progress=shown) if tasks.names else no_tasks
    found = _measured(source, subjects, windows, device, dtype, answer, shown)
    report = {"windows": options.windows, "length": options.length, "models": [one.to_json() for one in found]}
    if options.out is not None:
        write_text(options.out, json.dumps(report) + "\n")
    print(json.dumps(report) if args.json else render(found))


def _measured(
    source: SourceModel,
    subjects: Sequence[Subject],
    windows: dict[str, Tensor],
    device: str,
    dtype: torch.dtype,
    answer: Answering,
    shown: bool,
) -> list[ModelFigures]:
    """The figures of all, with a bar."""
    with tqdm(unit="window", disable=not shown or not windows, file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return evaluate(source, subjects, windows, device=device, dtype=dtype, answer=answer, progress=progress)


def _windows(
    source: SourceModel, subjects: Sequence[Subject], texts: Sequence[NamedText], options: EvalOptions
) -> dict[str, Tensor]:
    """Windows of each text, and every subject's tokenizer asked whether they are the same for it."""
    if not texts:
        return {}
    check_length(source.model, options.length)
    vocabulary = source.vocabulary

    def read(directory: Path, text: NamedText) -> Tensor:
        return first_windows(directory, text.files, options.windows, options.length, vocabulary)

    windows = {text.name: read(source.directory, text) for text in texts}
    for subject in subjects:
        directory = subject.path if subject.path.is_dir() else subject.path.parent
        if not (directory / TOKENIZER).is_file() or _same(directory / TOKENIZER, source.directory / TOKENIZER):
            continue
        for text in texts:
            if not torch.equal(read(directory, text), windows[text.name]):
                raise InputError(
                    f"{subject.path}: its tokenizer makes other tokens of {text.name} than that of {source.directory}; "
                    "perplexities of different tokens cannot be compared, so measure it alone, as MODEL_DIR"
                )
    return windows


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()
