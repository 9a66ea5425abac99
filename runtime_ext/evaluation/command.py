"""`python -m runtime_ext eval`: perplexity of texts, and tasks of lm-evaluation-harness, where the model runs.

    python -m runtime_ext eval OUT.onnx --text FILE [NAME=FILE,FILE ...] [--windows 40] [--length 512] [--json]
    python -m runtime_ext eval OUT.onnx --tasks hellaswag,arc_easy [--limit 200]

Needs no torch. Texts, windows and figures are those of `python -m calib eval`, which also says how far a model is from
the one that it was made of.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from dualbinary import InputError
from dualbinary.cli.options import option, options_from
from dualbinary.evaluation.figures import ModelFigures, TaskFigure, TextFigures
from dualbinary.evaluation.table import render
from dualbinary.evaluation.tasks import TaskOptions, check_tasks, run_tasks
from dualbinary.evaluation.texts import TEXT_HELP, check_windows, named_texts
from dualbinary.files.atomic import check_file, write_text
from runtime_ext.decoder import Decoder, LoadOptions
from runtime_ext.evaluation.scoring import text_windows, window_nll
from runtime_ext.providers import Provider
from runtime_ext.text import TextCodec

__all__ = ["EXAMPLES", "OPTIONS", "EvalOptions"]


@dataclass(frozen=True)
class EvalOptions:
    """Options of the command."""

    text: tuple[str, ...] = option((), help=TEXT_HELP, metavar="[NAME=]FILE", nargs="+")
    windows: int = option(40, help="the first N windows of each text", minimum=1)
    length: int = option(512, help="tokens in a window", minimum=2, metavar="T")
    out: Path | None = option(None, help="write what --json prints to a file as well", metavar="FILE")
    quiet: bool = option(False, help="no progress")


OPTIONS = (LoadOptions, EvalOptions, TaskOptions, Provider)
EXAMPLES = """\
examples:
  python -m runtime_ext eval OUT.onnx --text prose=novel.txt code=program.py
  python -m runtime_ext eval OUT.onnx --tasks hellaswag,arc_easy --limit 200
"""


def command(args: argparse.Namespace) -> None:
    """Run the command."""
    options, tasks = options_from(args, EvalOptions), options_from(args, TaskOptions)
    if not options.text and not tasks.names:
        raise InputError("nothing to measure; give --text FILE, or --tasks NAME")
    if options.out is not None:
        check_file(options.out)
    check_windows(options.windows, options.length)
    if tasks.names:
        check_tasks(tasks)
    progress = not options.quiet and sys.stderr.isatty()
    texts = _texts(args, options, progress) if options.text else ()
    answers = _tasks(args, tasks, progress) if tasks.names else ()
    figures = ModelFigures(str(args.model), "onnx", texts, answers)
    report = json.dumps({"windows": options.windows, "length": options.length, "models": [figures.to_json()]})
    if options.out is not None:
        write_text(options.out, report + "\n")
    print(report if args.json else render([figures]))


def _texts(args: argparse.Namespace, options: EvalOptions, progress: bool) -> tuple[TextFigures, ...]:
    load, texts = options_from(args, LoadOptions), named_texts(options.text)
    codec = TextCodec(args.model.parent)
    windows = [text_windows(codec, text, options.windows, options.length) for text in texts]
    decoder = Decoder.load(args.model, load.threads, load.library, options_from(args, Provider))
    done, total = 0, options.windows * len(texts)

    def advance() -> None:
        nonlocal done
        done += 1
        if progress:
            print(f"\rwindow {done} of {total}", end="" if done < total else "\n", file=sys.stderr, flush=True)

    return tuple(
        TextFigures(text.name, window_nll(decoder, of_text, advance))
        for text, of_text in zip(texts, windows, strict=True)
    )


def _tasks(args: argparse.Namespace, tasks: TaskOptions, progress: bool) -> tuple[TaskFigure, ...]:
    load, provider = options_from(args, LoadOptions), options_from(args, Provider)
    try:
        from runtime_ext.evaluation.language_model import OnnxLanguageModel
    except ImportError as error:
        raise InputError(f"--tasks takes lm-evaluation-harness; pip install 'dualbinary[tasks]' ({error})") from None
    model = OnnxLanguageModel(args.model, load.threads, load.library, provider)
    return run_tasks(lambda: model, tasks, progress=progress)
