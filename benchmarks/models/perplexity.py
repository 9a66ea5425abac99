"""Perplexity of an exported model on a text, with the library's kernels or by the fallback function.

    python -m benchmarks.models.perplexity OUT.onnx --text FILE [--windows 40] [--length 512] [--no-library] [--json]

The text is read as it is and tokenized once, without special tokens. The first windows of `length` tokens, which do not
overlap, are fed one by one: whole where the model gives the logits of every token, and otherwise token by token through
its cache, which takes minutes. The mean is over the length - 1 next-token predictions of each:

    perplexity = exp( - mean over windows and positions of log p(token[i+1] | token[0..i]) )

Compare figures only where text, windows and length are the same.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from tokenizers import Tokenizer
from tqdm import tqdm

from dualbinary import InputError
from dualbinary.cli.console import add_common_options, run
from runtime_ext.cache import cache_tensors
from runtime_ext.decoder import session_options

__all__ = ["perplexity"]


def perplexity(session: ort.InferenceSession, windows: npt.NDArray[np.int64], *, progress: bool = False) -> float:
    """Measure the perplexity of the model over `windows`, int64 [windows, length]."""
    total = 0.0
    for window in tqdm(windows, unit="window", disable=not progress, file=sys.stderr):
        logits = _logits(session, window)[:-1].astype(np.float64)  # [length - 1, vocabulary]
        top = logits.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
        total += float((log_sum - np.take_along_axis(logits, window[1:, None], axis=1)[:, 0]).mean())
    return math.exp(total / len(windows))


def _logits(session: ort.InferenceSession, window: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
    """Compute the logits [length, vocabulary] of every token of a window."""
    inputs = {value.name for value in session.get_inputs()}
    carried = cache_tensors(session)
    past = {tensor.past: tensor.zeros(0) for tensor in carried}
    single = next(value.shape[1] for value in session.get_outputs() if value.name == "logits") == 1
    names = [value.name for value in session.get_outputs()] if single else ["logits"]
    step = 1 if single else len(window)
    rows = []
    for begin in range(0, len(window), step):
        end = begin + step
        feeds = {"input_ids": window[None, begin:end], "attention_mask": np.ones((1, end), np.int64), **past}
        if "position_ids" in inputs:
            feeds["position_ids"] = np.arange(begin, end, dtype=np.int64)[None]
        outputs = dict(zip(names, session.run(names, feeds), strict=True))
        rows.append(np.asarray(outputs["logits"])[0])
        if single:
            past = {tensor.past: outputs[tensor.present] for tensor in carried}
    return np.concatenate(rows)


def _windows(model: Path, text: Path, count: int, length: int) -> npt.NDArray[np.int64]:
    for path in (model, text, model.parent / "tokenizer.json"):
        if not path.is_file():
            raise InputError(f"{path}: no such file")
    tokenizer = Tokenizer.from_file(str(model.parent / "tokenizer.json"))
    ids = tokenizer.encode(text.read_text(encoding="utf-8"), add_special_tokens=False).ids
    if len(ids) < count * length:
        raise InputError(f"{text}: {len(ids)} tokens, {count} windows of {length} need {count * length}")
    return np.array(ids[: count * length], np.int64).reshape(count, length)


def _command(args: argparse.Namespace) -> None:
    windows = _windows(args.model, args.text, args.windows, args.length)
    options = session_options(args.threads, args.library)
    session = ort.InferenceSession(str(args.model), options, providers=["CPUExecutionProvider"])
    begin = time.perf_counter()
    value = perplexity(session, windows, progress=sys.stderr.isatty())
    result = {
        "perplexity": value,
        "windows": args.windows,
        "length": args.length,
        "kernel": "library" if args.library else "fallback",
        "seconds": round(time.perf_counter() - begin, 1),
    }
    print(json.dumps(result) if args.json else f"perplexity {value:.3f} ({args.windows} windows of {args.length})")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models.perplexity", description="Perplexity of an exported model on a text."
    )
    parser.add_argument("model", type=Path, metavar="OUT.onnx")
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help="plain text, UTF-8")
    parser.add_argument("--windows", type=int, default=40, help="how many (default 40)")
    parser.add_argument("--length", type=int, default=512, help="tokens in each (default 512)")
    parser.add_argument("--threads", type=int, default=0, help="intra-op threads; 0 is one for each core (default)")
    parser.add_argument("--no-library", dest="library", action="store_false", help="run by the fallback function")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
