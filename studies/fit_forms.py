"""A table of the forms that a plain model can be fitted to: bits, error of the weights, and perplexity.

    python -m studies.fit_forms MODEL_DIR --text FILE [--windows 20] [--length 512] [--only TEXT] [--json]

Each row fits every linear layer of the decoder to one form without data, puts the dequantized weights back into the
float32 model in PyTorch and measures its perplexity on the first windows of the text, those of `calib eval`. The ratio
is to the model as it is; +- is the standard error of its logarithm over the windows, which all rows share. Bits count
planes, scales, factors and zero points. Token embedding and head stay as they are.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoModelForCausalLM

from dualbinary import padded_k
from dualbinary.cli.console import add_common_options, run
from dualbinary.contract.scale_codes import dtype_name
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat
from dualbinary.fitting.closed_form import fit
from studies.windows import windows_of

__all__ = ["FORMS"]

_CODES = np.dtype(np.uint8)
_FREE = PlaneFormat(4, 64, offset=True)
_OFFSET = PlaneFormat(4, 32, offset=True, levels="even")
_ZERO = PlaneFormat(4, 32, levels="even", zero=8)
_EACH = PlaneFormat(4, 32, levels="even", zero=EACH_GROUP)

FORMS: tuple[PlaneFormat, ...] = (
    _FREE,
    replace(_OFFSET, scale_dtype=_CODES),
    replace(_FREE, scale_dtype=_CODES),
    replace(_OFFSET, group_size=64, scale_dtype=_CODES),
    replace(_ZERO, group_size=16, scale_dtype=_CODES),
    _EACH,
    _ZERO,
    replace(_OFFSET, group_size=64),
    replace(_FREE, offset=False, scale_dtype=_CODES),
    replace(_OFFSET, group_size=128),
    replace(_EACH, scale_dtype=_CODES),
    replace(_FREE, group_size=128, scale_dtype=_CODES),
    replace(_ZERO, group_size=128),
    replace(_OFFSET, planes=3, group_size=16, scale_dtype=_CODES),
    replace(_FREE, planes=3, group_size=32, scale_dtype=_CODES),
    replace(_FREE, planes=3),
)


def form_name(form: PlaneFormat) -> str:
    """A short name of a form."""
    centre = "offset" if form.offset else f"zero {form.zero}" if form.even else "no offset"
    return f"{form.planes} {form.levels}, {centre}, G={form.group_size}, {dtype_name(form.scale_dtype)}"


class _Model:
    """The float32 model, its layers and its windows of tokens."""

    def __init__(self, directory: Path, text: Path, windows: int, length: int) -> None:
        self.windows = torch.from_numpy(windows_of(directory, text, windows, length))
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        head = self.model.get_output_embeddings()
        linears = ((name, module) for name, module in self.model.named_modules() if isinstance(module, nn.Linear))
        self.layers = {name: module for name, module in linears if module is not head}
        self.original = {name: layer.weight.detach().numpy().copy() for name, layer in self.layers.items()}

    def losses(self) -> np.ndarray:
        """The mean loss of each window."""
        with torch.inference_mode():
            return np.array([self._loss(window) for window in self.windows])

    def _loss(self, window: Tensor) -> float:
        logits = self.model(window[None], use_cache=False).logits[0, :-1]
        return float(nn.functional.cross_entropy(logits, window[1:]))

    def fit(self, form: PlaneFormat) -> tuple[float, float]:
        """Fit all layers to `form`; returns bits per weight and the mean relative squared error of the layers."""
        bits, weights, errors = 0, 0, []
        for name, layer in self.layers.items():
            rows, inputs = self.original[name].shape
            size = min(form.group_size, padded_k(inputs, 32))  # a row shorter than a group is one group
            fitted = fit(self.original[name], replace(form, group_size=size), name=name)
            layer.weight.data = torch.from_numpy(fitted.weight.dequantize()).float()
            bits += rows * fitted.weight.format.row_bits(inputs)
            weights += rows * inputs
            errors.append(fitted.relative_error)
        return bits / weights, float(np.mean(errors))


def table(model: _Model, only: str) -> Iterator[dict[str, Any]]:
    """The rows of the table, the model as it is first."""
    base = model.losses()
    yield {"form": "as it is", "bits": None, "error": 0.0, "perplexity": math.exp(base.mean()), "ratio": 1.0, "se": 0.0}
    forms = [form for form in FORMS if only in form_name(form)]
    for form in tqdm(forms, unit="form", disable=not sys.stderr.isatty(), file=sys.stderr):
        bits, error = model.fit(form)
        difference = model.losses() - base
        yield {
            "form": form_name(form),
            "bits": bits,
            "error": error,
            "perplexity": math.exp((base + difference).mean()),
            "ratio": math.exp(difference.mean()),
            "se": float(difference.std(ddof=1) / math.sqrt(len(difference))),
        }


def _command(args: argparse.Namespace) -> None:
    model = _Model(args.model_dir, args.text, args.windows, args.length)
    rows = table(model, args.only)
    if args.json:
        print(json.dumps({"rows": list(rows)}))
        return
    print("| form | bits | error | perplexity | ratio | +- |\n| --- | --- | --- | --- | --- | --- |", flush=True)
    for row in rows:
        bits = "" if row["bits"] is None else f"{row['bits']:.3f}"
        figures = f"{row['error']:.5f} | {row['perplexity']:.3f} | {row['ratio']:.4f} | {row['se']:.4f}"
        print(f"| {row['form']} | {bits} | {figures} |", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.fit_forms", description="Measure the forms that a plain model can be fitted to."
    )
    parser.add_argument("model_dir", type=Path, metavar="MODEL_DIR")
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help="text to measure on")
    parser.add_argument("--windows", type=int, default=20, metavar="N", help="default 20; at least 2")
    parser.add_argument("--length", type=int, default=512, metavar="N", help="tokens of a window; default 512")
    parser.add_argument("--only", default="", metavar="TEXT", help="forms whose name has TEXT in it")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    raise SystemExit(main())
