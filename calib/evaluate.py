"""`python -m calib eval MODEL_DIR [CHECKPOINT ...] --text FILE`: perplexity, and how far checkpoints went astray.

For each window of T tokens the model sees all of it at once; the mean is over the T - 1 tokens that follow another:

    perplexity = exp(mean of -log P[y])          kl = mean of KL(Pt || Ps)          agreement = share of equal argmax

Text is read as it is, its files one after another, and tokenized without special tokens; windows do not overlap.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import Module
from tqdm import tqdm

from calib.data.collect import first_windows
from calib.losses import chunk_size, cross_entropy, kl_divergence
from calib.models.blocks import autocast, compute_dtype
from calib.models.head import head_of
from calib.models.source import SourceModel, check_length
from calib.models.stored_checkpoint import StoredCheckpoint
from calib.parallel import Team
from dualbinary.cli.console import add_common_options, run
from dualbinary.cli.options import add_options, option, options_from
from dualbinary.contract.weight import PlaneFormat

__all__ = ["Evaluation", "evaluate", "main"]

ANY_FORMAT = PlaneFormat(2, 64)  # until a checkpoint gives layers theirs


@dataclass(frozen=True)
class Evaluation:
    """Figures of one model over the same tokens; kl and agreement are against the full-precision model.

    `nll` is the mean of -log P[y] for each window, in their order: two models are compared window by window, which
    leaves out that some text is harder.
    """

    name: str
    perplexity: float
    kl: float
    agreement: float
    nll: tuple[float, ...]


@dataclass(frozen=True)
class EvalOptions:
    """Options of the command."""

    text: tuple[str, ...] = option(help="txt, jsonl, parquet or patterns", metavar="FILE", nargs="+")
    windows: int = option(40, help="the first N windows")
    length: int = option(512, help="tokens in a window", metavar="T")
    dtype: Literal["auto", "float32", "bfloat16"] = option("float32", help="of products")
    device: str | None = option(None, help="cpu, cuda, mps", shown="default: the best there is", metavar="NAME")
    quiet: bool = option(False, help="no progress bar")


@torch.no_grad()
def evaluate(
    source: SourceModel,
    checkpoints: list[StoredCheckpoint],
    windows: Tensor,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[Evaluation]:
    """Evaluate the full-precision model and then each checkpoint on `windows` int [count, T]; loads the model."""
    model = source.model
    source.load(model, linear_dtype=dtype)
    Module.to(model, device)
    head, vocabulary = head_of(model, device, dtype)
    chunk = chunk_size(vocabulary)

    def hidden(window: Tensor) -> Tensor:
        with autocast(device, dtype):
            return model.base_model(input_ids=window[None], use_cache=False).last_hidden_state[0, :-1]

    results: list[Evaluation] = []
    teachers: list[Tensor] = []  # full-precision hidden states [T - 1, H] of each window, met by every checkpoint
    for checkpoint in [None, *checkpoints]:
        if checkpoint is not None:
            checkpoint.apply(source)
            Module.to(model, device)
        tables = [table for table in source.tables if table.heads]
        own = partial(head, product=tables[0].product) if tables else head
        sums = torch.zeros(len(windows), 3, dtype=torch.float64)
        for index, row in enumerate(windows):
            window = row.to(device, torch.int64)
            student = hidden(window)
            if checkpoint is None:
                teachers.append(student.cpu())
            teacher = teachers[index].to(device)
            for begin in range(0, len(student), chunk):
                part = slice(begin, begin + chunk)
                mine, target = own(student[part]), window[1:][part]
                theirs = mine if checkpoint is None else head(teacher[part])
                terms = cross_entropy(mine, target), kl_divergence(theirs, mine), mine.argmax(1) == theirs.argmax(1)
                sums[index] += torch.stack([term.float().sum() for term in terms]).cpu()
            progress(len(results) * len(windows) + index + 1, (len(checkpoints) + 1) * len(windows))
        means = sums / (windows.shape[1] - 1)
        nll, kl, agreement = means.mean(0).tolist()
        name = str(source.directory if checkpoint is None else checkpoint.directory)
        results.append(Evaluation(name, math.exp(nll), kl, agreement, tuple(means[:, 0].tolist())))
    return results


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m calib eval",
        description="Perplexity of a model and of checkpoints made from it, and how far they are apart.",
    )
    result.add_argument("model_dir", type=Path, metavar="MODEL_DIR", help="full-precision model directory")
    result.add_argument("checkpoints", type=Path, nargs="*", metavar="CHECKPOINT", help="results of python -m calib")
    add_options(result, EvalOptions)
    add_common_options(result)
    return result


def main(argv: list[str]) -> int:
    """Run the command and return its exit code."""
    return run(parser(), _command, argv)


def _command(args: argparse.Namespace) -> None:
    options = options_from(args, EvalOptions)
    checkpoints = [StoredCheckpoint(path) for path in args.checkpoints]
    source = SourceModel(args.model_dir, ANY_FORMAT)
    check_length(source.model, options.length)
    vocabulary = source.model.config.get_text_config().vocab_size
    windows = first_windows(args.model_dir, options.text, options.windows, options.length, vocabulary)
    device = Team.launched(options.device).device
    with tqdm(unit="window", disable=options.quiet or not sys.stderr.isatty(), file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        dtype = compute_dtype(options.dtype, device)
        results = evaluate(source, checkpoints, windows, device=device, dtype=dtype, progress=progress)
    if args.json:
        print(
            json.dumps({"windows": len(windows), "length": options.length, "models": [asdict(one) for one in results]})
        )
        return
    for one in results:
        print(f"{one.name}: perplexity {one.perplexity:.3f}, KL {one.kl:.4f}, same top token {one.agreement:.3f}")
