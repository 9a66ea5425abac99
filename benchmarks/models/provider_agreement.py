"""Agreement of the greedy tokens of one file on ONNX Runtime's CPU and CUDA providers.

    python -m benchmarks.models.provider_agreement [--models smollm2 llama-1b] [--tokens 32] [--json]

The files are those of `python -m benchmarks.models.bench --provider cuda`, at accuracy level 0. Exits with 1 where the
tokens differ. Activations are float16 on both sides, rounded in another order, so two tokens of nearly equal logits
could change places; where tokens differ, the lead of the CPU's token over the other one is given.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.models.variants import CUDA_VARIANTS, MODELS, make_file
from dualbinary import DualBinaryError
from dualbinary.cli.console import add_common_options, run
from runtime_ext.bench import SEED, TOKEN_RANGE
from runtime_ext.decoder import Decoder
from runtime_ext.providers import CPU, Provider

__all__ = ["Agreement", "compare", "main"]

PROMPT_TOKENS = 32


@dataclass(frozen=True)
class Agreement:
    """Tokens in a row that are the same, of how many; and the lead over the first other one, in logits."""

    same: int
    tokens: int
    lead: float | None


def compare(path: Path, tokens: int, other: Provider, library: bool = True) -> Agreement:
    """Continue a prompt of random tokens by the likeliest ones on the CPU provider and on `other`."""
    prompt = np.random.default_rng(SEED).integers(*TOKEN_RANGE, size=PROMPT_TOKENS).tolist()
    chosen, logits = _greedy(path, prompt, tokens, CPU, library)
    others, _ = _greedy(path, prompt, tokens, other, library)
    same = next((i for i, (a, b) in enumerate(zip(chosen, others, strict=True)) if a != b), tokens)
    lead = None if same == tokens else float(logits[same][chosen[same]] - logits[same][others[same]])
    return Agreement(same, tokens, lead)


def _greedy(
    path: Path, prompt: list[int], tokens: int, provider: Provider, library: bool
) -> tuple[list[int], list[np.ndarray]]:
    decoder = Decoder.load(path, library=library, provider=provider)
    decoder.start(len(prompt) + tokens)
    chosen, logits = [], [decoder.step(prompt)]
    for _ in range(tokens):
        chosen.append(int(logits[-1].argmax()))
        logits.append(decoder.step([chosen[-1]]))
    return chosen, logits


def _command(args: argparse.Namespace) -> None:
    found = {
        model: compare(make_file(CUDA_VARIANTS[0], model, args.work / model), args.tokens, Provider("cuda"))
        for model in args.models
    }
    if args.json:
        print(json.dumps({model: asdict(agreement) for model, agreement in found.items()}))
    else:
        print("; ".join(f"{model}: {each.same} of {each.tokens} tokens the same" for model, each in found.items()))
    if wrong := {model: each for model, each in found.items() if each.same < each.tokens}:
        leads = ", ".join(f"{model} after {each.same}, lead {each.lead:.3g}" for model, each in wrong.items())
        raise DualBinaryError(f"the providers' tokens differ: {leads}")


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models.provider_agreement", description="Greedy tokens on the CPU and on CUDA."
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["smollm2"], help="default smollm2")
    parser.add_argument("--tokens", type=int, default=32, metavar="N", help="to compare (default 32)")
    parser.add_argument("--work", type=Path, default=Path("out/bench"), metavar="DIR", help="default out/bench")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
