"""`python -m runtime_ext generate`: continue a text, or several at once.

    python -m runtime_ext generate OUT.onnx --prompt TEXT [--chat] [sampling options] [--provider cuda] [--json]
    python -m runtime_ext generate OUT.onnx --prompt TEXT [--speculate ngram | --draft SMALLER.onnx] ...
    python -m runtime_ext generate OUT.onnx --prompts FILE [--slots 4] ...

Text goes to standard output as it is generated, and a last line with counts and speeds to standard error. Of several
prompts the answers come in the order of the prompts, each on a line, as a JSON string where it holds a line end or
begins with a quotation mark; `--json` prints an object for each.
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dualbinary.cli.options import option, options_from
from dualbinary.errors import OptionError
from runtime_ext.decoder import Decoder, LoadOptions
from runtime_ext.generate_all import as_line, generate_all, read_prompts
from runtime_ext.generation import Generation, answer_limit
from runtime_ext.providers import Provider
from runtime_ext.sampling import Sampler
from runtime_ext.speculation import SPECULATE, DraftGuesser, NgramGuesser, Pace, Speculation, longest_guess
from runtime_ext.stop_strings import before_stop, stop_place
from runtime_ext.text import TextCodec

__all__ = [
    "EXAMPLES",
    "OPTIONS",
    "GenerateOptions",
    "Generation",
    "draft_option",
    "follow",
    "generate",
    "speculate_option",
    "speculation_for",
]

SLOTS = 4  # sequences at once, unless said otherwise
EXAMPLES = """\
examples:
  dualbinary generate OUT.onnx --prompt "Once upon a time" --max-new-tokens 200
  dualbinary generate OUT.onnx --chat --prompt "Why is the sky blue?" --temperature 0.7 --top-p 0.9 --seed 1
  dualbinary generate OUT.onnx --prompts questions.txt --chat --slots 8 --json
  dualbinary generate OUT.onnx --prompt "def fibonacci(n):" --draft SMALLER.onnx
"""


def speculate_option(group: str) -> Any:
    """The field of an options type that says who guesses tokens, first of its group of options."""
    return option(
        "auto",
        help="check several guessed tokens in one run of the model; the text stays the same. ngram: guess what "
        "followed the last words before, where that pays; auto: the same where several tokens get the same bits as "
        "one; none: a token a run",
        choices=SPECULATE,
        group=group,
    )


def draft_option() -> Any:
    """The field of an options type that names a model to make the guesses."""
    return option(
        None,
        help="a smaller exported model with the same vocabulary, which makes the guesses",
        metavar="SMALLER.onnx",
    )


@dataclass(frozen=True)
class GenerateOptions:
    """Options of the command beside the sampler's."""

    prompt: str | None = option(None, help="text to continue, or the question with {chat}")
    prompts: Path | None = option(
        None, help="file of prompts, each a line or, to hold line ends, a JSON string on a line", metavar="FILE"
    )
    slots: int | None = option(None, help="sequences at once, of {prompts}", shown=f"default: {SLOTS}", minimum=1)
    chat: bool = option(False, help="put the prompt into the model's chat template")
    max_new_tokens: int = option(128, help="tokens to generate at most", minimum=1)
    stop: tuple[str, ...] = option(
        (), help="end before this text, each time one more; no special token", metavar="TEXT"
    )
    speculate: str = speculate_option("speculation, also of {prompts} while one of them runs alone")
    draft: Path | None = draft_option()

    def __post_init__(self) -> None:
        """Raise OptionError unless there is one source of prompts, and one of guesses."""
        if (self.prompt is None) == (self.prompts is None):
            raise OptionError("prompt", "one of {prompt} and {prompts}", "neither" if self.prompt is None else "both")
        if self.slots is not None and self.prompts is None:
            raise OptionError("slots", "no value without {prompts}", self.slots, "name {prompts}, or leave {slots} out")
        if "" in self.stop:
            raise OptionError("stop", "a text of a character or more", '""')
        if self.draft is not None and self.speculate != "auto":
            raise OptionError("speculate", "no value with {draft}, which makes the guesses", self.speculate)
        if self.prompts is not None and self.draft is not None:
            expected = "no value with {prompts}, whose sequences would share one draft"
            raise OptionError("draft", expected, self.draft, "leave {draft} out, or use {prompt}")


OPTIONS = (LoadOptions, GenerateOptions, Sampler, Provider)


def generate(
    decoder: Decoder,
    prompt: Sequence[int],
    max_new_tokens: int,
    sampler: Sampler,
    result: Generation,
    speculation: Speculation | None = None,
) -> Generator[int]:
    """Yield the tokens that follow `prompt` as they are chosen, and fill in `result`.

    Ends at an end-of-text token, after `max_new_tokens`, or where the context is full. `speculation`, which has the
    same decoder, takes several tokens a run where it can. Raises InputError where the prompt is empty or leaves no room
    in the context, and DualBinaryError where the model's logits are not finite.
    """
    limit = answer_limit(prompt, max_new_tokens, decoder.config.context_length)
    decoder.start(len(prompt) + limit)
    began = time.perf_counter()
    logits = decoder.step(prompt)
    result.prompt_seconds = time.perf_counter() - began
    yield from follow(decoder, prompt, logits, limit, sampler, result, speculation)


def follow(
    decoder: Decoder,
    prompt: Sequence[int],
    logits: npt.NDArray[np.float32],
    limit: int,
    sampler: Sampler,
    result: Generation,
    speculation: Speculation | None = None,
) -> Generator[int]:
    """As `generate`, where `decoder` has read `prompt` and gave `logits` for it; at most `limit` tokens."""
    sampler.start(prompt)
    while (token := sampler(logits)) not in decoder.config.eos_token_ids:
        result.tokens.append(token)
        yield token
        if len(result.tokens) == limit:
            return
        if speculation is not None:
            speculation.start(prompt, len(prompt) + limit)
            yield from speculation.tokens(token, limit - 1, sampler, result)
            return
        began = time.perf_counter()
        logits = decoder.step([token])
        result.decode_seconds += time.perf_counter() - began
        result.runs += 1
    result.finish_reason = "stop"


def command(args: argparse.Namespace) -> None:
    """Run the command."""
    options, load = options_from(args, GenerateOptions), options_from(args, LoadOptions)
    sampler = options_from(args, Sampler)
    decoder = Decoder.load(args.model, load.threads, load.library, options_from(args, Provider))
    codec = TextCodec(args.model.parent)
    if options.prompts is not None:
        guess = longest_guess(decoder, options.speculate, library=load.library)
        _answer_all(args, decoder, codec, options, sampler, guess)
        return
    assert options.prompt is not None
    prompt = codec.encode_chat(options.prompt) if options.chat else codec.encode(options.prompt)
    after = () if options.chat else prompt  # an answer is a text of its own, a continuation is not
    result = Generation([])
    speculation = speculation_for(decoder, options, load)
    tokens = generate(decoder, prompt, options.max_new_tokens, sampler, result, speculation)
    pieces = _answer(tokens, codec, after, options.stop, result)
    if args.json:
        text = "".join(pieces)
        print(json.dumps(_report(args.model, len(prompt), text, result)))
        return
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    finally:
        if result.tokens:
            print()  # an error gets a line of its own
    print(_summary(len(prompt), result), file=sys.stderr)


def _answer(
    tokens: Generator[int], codec: TextCodec, after: Sequence[int], stop: Sequence[str], result: Generation
) -> Iterator[str]:
    """The text of `tokens`, which are asked for no more once one of `stop` is there; `result` says so then."""
    with contextlib.closing(tokens):  # guesses that were under way are taken back before they are counted
        stopped = yield from before_stop(codec.stream(tokens, after), stop)
    if stopped:
        result.finish_reason = "stop"


class _Guessing(Protocol):
    @property
    def speculate(self) -> str: ...

    @property
    def draft(self) -> Path | None: ...


def speculation_for(decoder: Decoder, options: _Guessing, load: LoadOptions) -> Speculation | None:
    """What makes and checks guesses, as `options` say."""
    pace = Pace()
    if options.draft is not None:
        draft = Decoder.load(options.draft, load.threads, load.library, decoder.provider)
        return Speculation(decoder, DraftGuesser(draft, decoder, pace), pace)
    longest = longest_guess(decoder, options.speculate, library=load.library)
    return Speculation(decoder, NgramGuesser(longest), pace) if longest else None


def _answer_all(
    args: argparse.Namespace,
    decoder: Decoder,
    codec: TextCodec,
    options: GenerateOptions,
    sampler: Sampler,
    guess: int,
) -> None:
    """Answer the prompts of a file, in order."""
    assert options.prompts is not None
    encode = codec.encode_chat if options.chat else codec.encode
    prompts = [encode(text) for text in read_prompts(options.prompts)]
    samplers = [replace(sampler) for _ in prompts]
    for each, prompt in zip(samplers, prompts, strict=True):
        each.start(prompt)
    began = time.perf_counter()
    count = 0
    afters = [() if options.chat else prompt for prompt in prompts]
    ends = [_stop_test(codec, after, options.stop) for after in afters] if options.stop else None
    answers = generate_all(decoder, prompts, options.max_new_tokens, samplers, options.slots or SLOTS, guess, ends)
    for prompt, after, result in zip(prompts, afters, answers, strict=True):
        text = "".join(before_stop([codec.decode(result.tokens, after)], options.stop))
        count += len(result.tokens)
        print(json.dumps(_report(args.model, len(prompt), text, result)) if args.json else as_line(text), flush=True)
    seconds = time.perf_counter() - began
    print(f"[{len(prompts)} prompts; {count} new, {count / seconds:.1f} tokens/s in all]", file=sys.stderr)


def _stop_test(codec: TextCodec, after: Sequence[int], stop: Sequence[str]) -> Callable[[int], bool]:
    """Says of each token of a text in turn whether one of `stop` is there with it."""
    pieces, text, longest = codec.pieces(after), "", max(map(len, stop))

    def test(token: int) -> bool:
        nonlocal text
        text = text[1 - longest :] if longest > 1 else ""  # what may have begun before
        text += pieces(token)
        return stop_place(text, stop) is not None

    return test


def _report(model: Path, prompt_tokens: int, text: str, result: Generation) -> dict[str, object]:
    return {"model": str(model), "prompt_tokens": prompt_tokens, "text": text, **asdict(result)}


def _summary(prompt_tokens: int, result: Generation) -> str:
    line = f"[{prompt_tokens} prompt tokens in {result.prompt_seconds:.2f} s; {len(result.tokens)} new"
    if speed := result.tokens_per_second:
        line += f", {speed:.1f} tokens/s"
    if result.guessed:
        line += f", {result.accepted} of {result.guessed} guesses right"
    return f"{line}; {result.finish_reason}]"
