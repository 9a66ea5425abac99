"""`python -m runtime_ext logits OUT.onnx`: the logits of token ids, for other programs.

Standard input has sequences, each a JSON list of token ids on a line. Standard output has first a line with a JSON
object: vocabulary (V), context_length, and logits_per_run, the new tokens whose logits one run of the model gives. Then
for each sequence of T ids, read by itself, T * V numbers of four bytes (float32, the machine's byte order): row t is
the logits that follow token t. They are written as they are computed, so neither side holds more than it wants to, and
the next sequence may be asked for once they are read. The command ends with its input.
"""

import argparse
import json
import sys
from typing import BinaryIO

import numpy as np

from dualbinary import InputError
from dualbinary.cli.options import options_from
from runtime_ext.decoder import Decoder, LoadOptions
from runtime_ext.evaluation.scoring import window_logits
from runtime_ext.providers import Provider

__all__ = ["EXAMPLES", "OPTIONS", "answer"]

OPTIONS = (LoadOptions, Provider)
EXAMPLES = """\
example:
  echo "[1, 2, 3]" | python -m runtime_ext logits OUT.onnx > logits.bin
"""


def answer(decoder: Decoder, lines: BinaryIO, output: BinaryIO) -> None:
    """Answer `lines` as the module's docstring says. Raises InputError for a line that is no list of token ids."""
    vocabulary = decoder.vocabulary
    if vocabulary is None:
        decoder.start(1)
        vocabulary = len(decoder.step([0]))
    head = {
        "vocabulary": vocabulary,
        "context_length": decoder.config.context_length,
        "logits_per_run": decoder.logits_per_run,
    }
    output.write(json.dumps(head).encode() + b"\n")
    output.flush()
    for number, line in enumerate(lines, 1):
        for logits in window_logits(decoder, _tokens(number, line)):
            output.write(np.ascontiguousarray(logits).data)
        output.flush()


def command(args: argparse.Namespace) -> None:
    """Run the command."""
    load = options_from(args, LoadOptions)
    decoder = Decoder.load(args.model, load.threads, load.library, options_from(args, Provider))
    answer(decoder, sys.stdin.buffer, sys.stdout.buffer)


def _tokens(number: int, line: bytes) -> list[int]:
    try:
        tokens = json.loads(line)
    except ValueError as error:
        raise InputError(f"line {number}: not JSON ({error})") from None
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, int) for token in tokens):
        raise InputError(
            f"line {number}: expected a list of token ids, got {line[:60].decode(errors='replace').strip()}"
        )
    return tokens
