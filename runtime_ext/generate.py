"""`python -m runtime_ext generate`: continue a text.

    python -m runtime_ext generate OUT.onnx --prompt TEXT [--chat] [sampling options] [--provider cuda] [--json]

Text goes to standard output as it is generated, and a last line with counts and speeds to standard error.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dualbinary import InputError
from dualbinary.cli.options import option, options_from
from runtime_ext.decoder import Decoder, LoadOptions
from runtime_ext.providers import Provider
from runtime_ext.sampling import Sampler
from runtime_ext.text import TextCodec

__all__ = ["OPTIONS", "GenerateOptions", "Generation", "generate"]


@dataclass(frozen=True)
class GenerateOptions:
    """Options of the command beside the sampler's."""

    prompt: str = option(help="text to continue, or the question with {chat}")
    chat: bool = option(False, help="put the prompt into the model's chat template")
    max_new_tokens: int = option(128, help="tokens to generate at most", minimum=1)


OPTIONS = (GenerateOptions, Sampler, Provider)


@dataclass
class Generation:
    """The result of one call: token ids, why it ended, and how long it took in seconds.

    `finish_reason` is "stop" at an end-of-text token (which is not among `tokens`) and "length" at the limit.
    """

    tokens: list[int]
    finish_reason: str = "length"
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0


def generate(
    decoder: Decoder, prompt: Sequence[int], max_new_tokens: int, sampler: Sampler, result: Generation
) -> Iterator[int]:
    """Yield the tokens that follow `prompt` as they are chosen, and fill in `result`.

    Ends at an end-of-text token, after `max_new_tokens`, or where the context is full. Raises InputError where the
    prompt is empty or leaves no room in the context, and DualBinaryError where the model's logits are not finite.
    """
    context = decoder.config.context_length
    if not prompt:
        raise InputError("the prompt is empty: it has no token to continue from")
    if len(prompt) >= context:
        raise InputError(
            f"the prompt has {len(prompt)} tokens, the model's context only {context} for it and the answer"
        )
    limit = min(max_new_tokens, context - len(prompt))
    decoder.start(len(prompt) + limit)
    began = time.perf_counter()
    logits = decoder.step(prompt)
    result.prompt_seconds = time.perf_counter() - began
    for _ in range(limit):
        token = sampler(logits)
        if token in decoder.config.eos_token_ids:
            result.finish_reason = "stop"
            return
        result.tokens.append(token)
        yield token
        if len(result.tokens) < limit:
            began = time.perf_counter()
            logits = decoder.step([token])
            result.decode_seconds += time.perf_counter() - began


def command(args: argparse.Namespace) -> None:
    """Run the command."""
    options, load = options_from(args, GenerateOptions), options_from(args, LoadOptions)
    sampler = options_from(args, Sampler)
    decoder = Decoder.load(args.model, load.threads, load.library, options_from(args, Provider))
    codec = TextCodec(args.model.parent)
    prompt = codec.encode_chat(options.prompt) if options.chat else codec.encode(options.prompt)
    result = Generation([])
    tokens = generate(decoder, prompt, options.max_new_tokens, sampler, result)
    if args.json:
        list(tokens)
        print(json.dumps(_report(args.model, len(prompt), codec.decode(result.tokens), result)))
        return
    try:
        for piece in codec.stream(tokens):
            print(piece, end="", flush=True)
    finally:
        if result.tokens:
            print()  # an error gets a line of its own
    print(_summary(len(prompt), result), file=sys.stderr)


def _report(model: Path, prompt_tokens: int, text: str, result: Generation) -> dict[str, object]:
    return {"model": str(model), "prompt_tokens": prompt_tokens, "text": text, **asdict(result)}


def _summary(prompt_tokens: int, result: Generation) -> str:
    line = f"[{prompt_tokens} prompt tokens in {result.prompt_seconds:.2f} s; {len(result.tokens)} new"
    steps = len(result.tokens) - (result.finish_reason == "length")  # the first token comes out of the prompt's step
    if steps > 0 and result.decode_seconds:
        line += f", {steps / result.decode_seconds:.1f} tokens/s"
    return f"{line}; {result.finish_reason}]"
