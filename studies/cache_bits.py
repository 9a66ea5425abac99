"""Perplexity of a model whose keys and values are rounded: 8 and 4 bits, scales for a row or for groups of it.

    python -m studies.cache_bits MODEL_DIR --text FILE [--windows 20] [--length 512] [--forms none int8 ...] [--json]

Keys are rounded as they are stored, rotated, and all tokens see them so, their own too. Forms are written
BITS[+][/GROUP]: 4/32 has a scale for each 32 numbers of a row, max |x| / 7; with + the scale goes from the smallest
number to the largest, 16 levels, and the smallest is stored beside it. k8v4/32 rounds keys to 8 bits a row and values
to 4 in groups. A scale, and a smallest number, takes four bytes in a form without groups and two in groups.
"""

import argparse
import json
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dualbinary import InputError
from dualbinary.cli.console import add_common_options, run
from studies.windows import windows_of

__all__ = ["Form", "rounded"]

FORMS = ("none", "8", "8/32", "4", "4/32", "4/16", "4+/32", "k8v4", "k8v4/32", "k8v4+/32", "k4/32v8")
_NAME = "rounded_cache"


@dataclass(frozen=True)
class Form:
    """How numbers are rounded: `bits` each, a scale for `group` of them (0: a row), and a smallest one if shifted."""

    bits: int
    group: int = 0
    shifted: bool = False

    @classmethod
    def read(cls, text: str) -> "Form":
        """The form that `text` names. Raises InputError for another text."""
        found = re.fullmatch(r"(\d+)(\+?)(?:/(\d+))?", text)
        if found is None or not 2 <= int(found[1]) <= 8:
            raise InputError(f"{text}: expected BITS[+][/GROUP] with 2 to 8 bits, such as 8, 4/32 or 4+/32")
        return cls(int(found[1]), int(found[3] or 0), bool(found[2]))

    def stored_bits(self, head_size: int) -> float:
        """Bits of a number, scales included."""
        factors = 2 if self.shifted else 1
        return self.bits + factors * (16 / self.group if self.group else 32 / head_size)


def rounded(x: torch.Tensor, form: Form) -> torch.Tensor:
    """What x [.., D] becomes in a cache of this form. Raises InputError where groups do not divide D."""
    size = form.group or x.shape[-1]
    if x.shape[-1] % size:
        raise InputError(f"groups of {size} do not divide heads of {x.shape[-1]}")
    groups = x.float().unflatten(-1, (-1, size))
    dtype = torch.float16 if form.group else torch.float32
    if form.shifted:
        low = groups.amin(-1, keepdim=True).to(dtype).float()
        step = ((groups.amax(-1, keepdim=True) - low) / (2**form.bits - 1)).to(dtype).float()
        numbers = ((groups - low) / step.clamp_min(1e-30)).round().clamp(0, 2**form.bits - 1)
        return (numbers * step + low).flatten(-2).to(x.dtype)
    most = 2 ** (form.bits - 1) - 1
    step = (groups.abs().amax(-1, keepdim=True) / most).to(dtype).float()
    numbers = (groups / step.clamp_min(1e-30)).round().clamp(-most, most)
    return (numbers * step).flatten(-2).to(x.dtype)


def _pair(text: str) -> tuple[Form, Form] | None:
    """Forms of keys and of values."""
    if text == "none":
        return None
    both = re.fullmatch(r"k(.+)v(.+)", text)
    return (Form.read(both[1]), Form.read(both[2])) if both else (Form.read(text), Form.read(text))


def _attend(forms: list[tuple[Form, Form] | None]) -> Any:
    """Attention of transformers over rounded keys and values; `forms` has one element, which may change."""
    usual = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def attend(module: Any, query: Any, key: torch.Tensor, value: torch.Tensor, *rest: Any, **options: Any) -> Any:
        if forms[0] is not None:
            key, value = rounded(key, forms[0][0]), rounded(value, forms[0][1])
        return usual(module, query, key, value, *rest, **options)

    return attend


def _command(args: argparse.Namespace) -> None:
    pairs = {name: _pair(name) for name in args.forms}
    windows = torch.from_numpy(windows_of(args.model, args.text, args.windows, args.length))
    forms: list[tuple[Form, Form] | None] = [None]
    ALL_ATTENTION_FUNCTIONS.register(_NAME, _attend(forms))
    transformers.AttentionInterface.register(_NAME, ALL_ATTENTION_FUNCTIONS[_NAME])
    transformers.AttentionMaskInterface.register(_NAME, transformers.masking_utils.ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        args.model, dtype=torch.float32, attn_implementation=_NAME
    ).eval()
    config = model.config
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    losses: dict[str, list[float]] = {name: [] for name in pairs}
    with torch.inference_mode():
        for window in windows:  # forms in turn, so that a run that is stopped has compared
            for name, pair in pairs.items():
                forms[0] = pair
                losses[name].append(model(window[None], labels=window[None]).loss.item())
    exact = sum(losses["none"]) if "none" in losses else math.nan
    for name, pair in pairs.items():
        bits = sum(form.stored_bits(head_size) for form in pair) / 2 if pair else 32.0
        mean = sum(losses[name]) / len(windows)
        row = {
            "form": name,
            "bits": round(bits, 3),
            "perplexity": math.exp(mean),
            "more": math.exp(mean - exact / len(windows)) - 1,
        }
        text = f"{name:10} {bits:6.2f} bits  perplexity {row['perplexity']:.3f}  {100 * row['more']:+.2f} %"
        print(json.dumps(row) if args.json else text, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.cache_bits", description="Perplexity with keys and values in few bits."
    )
    parser.add_argument("model", type=Path, metavar="MODEL_DIR", help="plain model directory")
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help="plain text, UTF-8")
    parser.add_argument("--windows", type=int, default=20, help="how many (default 20)")
    parser.add_argument("--length", type=int, default=512, help="tokens in each (default 512)")
    parser.add_argument("--forms", nargs="+", default=FORMS, metavar="FORM", help=f"default {' '.join(FORMS)}")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
