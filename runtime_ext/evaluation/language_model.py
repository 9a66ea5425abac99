"""An exported model as a model of lm-evaluation-harness: answers of tasks with the library, and without torch.

    python -m runtime_ext.evaluation.harness --model dualbinary --model_args path=out/model.onnx --tasks hellaswag ...

Texts become tokens as they do in the harness's `hf` model: with the special tokens that the tokenizer adds by itself,
a first token of a prompt that is empty, and prompts cut at their beginning where they do not fit. A sequence keeps what
it shares with the one before: endings of one question, sorted, read the question once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from dualbinary import InputError
from runtime_ext.decoder import Decoder
from runtime_ext.evaluation.scoring import log_probabilities
from runtime_ext.generate import generate
from runtime_ext.generation import Generation
from runtime_ext.providers import Provider
from runtime_ext.sampling import Sampler
from runtime_ext.text import TextCodec

__all__ = ["OnnxLanguageModel"]

MAX_NEW_TOKENS = 256  # of an answer where the task does not say, as in the harness

Scored = tuple[float, bool]
Request = tuple[Any, list[int], list[int]]  # what it is called, tokens of the context, tokens to score


class OnnxLanguageModel(TemplateLM):
    """See the module's docstring; the arguments are those of `--model_args`."""

    def __init__(
        self,
        path: str | Path,
        threads: int = 0,
        library: bool = True,
        provider: str | Provider = "cpu",
        max_length: int | None = None,
        add_bos_token: bool | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: Any = None,
    ) -> None:
        """Load the model at `path`. `max_length` is in tokens, the model's context where it is None.

        `add_bos_token` says whether prompts begin with the special tokens that the tokenizer adds; None: as it does by
        itself. The last three are the harness's own, and mean nothing here. Raises InputError as Decoder.load does.
        """
        super().__init__()
        self._path = Path(path)
        place = Provider(provider) if isinstance(provider, str) else provider
        self._decoder = Decoder.load(self._path, threads, library, place)
        self._codec = TextCodec(self._path.parent)
        self._add_bos = add_bos_token
        context = self._decoder.config.context_length
        if max_length is not None and not 2 <= max_length <= context:
            raise InputError(f"max_length {max_length}: expected 2 to {context}, the model's context")
        self.max_length = max_length or context
        self._read: list[int] = []  # the tokens in the decoder's cache

    @property
    def eot_token_id(self) -> int:
        """The end of a text. Raises InputError where neither model nor tokenizer says it."""
        if self._decoder.config.eos_token_ids:
            return self._decoder.config.eos_token_ids[0]
        return self._special("eos_token")[1]

    @property
    def prefix_token_id(self) -> int:
        """What stands before the first token of a text without a prompt: the first token of texts, else the last."""
        named = self._codec.special("bos_token")
        return self.eot_token_id if named is None else named[1]

    @property
    def tokenizer_name(self) -> str:
        """What the harness calls the tokenizer in its caches."""
        return str(self._path.parent.resolve()).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a conversation. Raises InputError where the task begins the answer itself."""
        if not add_generation_prompt:
            raise InputError(f"{self._path}: a task that begins the answer itself cannot be put into a chat template")
        return self._codec.chat_text(chat_history)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids of a text."""
        wanted = self._add_bos if add_special_tokens is None else add_special_tokens
        first = self._codec.special("bos_token")
        if add_special_tokens is None and first is not None and string.startswith(first[0]):
            wanted = False  # the text has it already
        return self._codec.encode_plain(string) if wanted is False else self._codec.encode(string)

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[Scored]:
        """Log P of each continuation, and whether each of its tokens is the most likely one."""
        found: dict[int, Scored] = {}
        order = sorted(range(len(requests)), key=lambda index: requests[index][1] + requests[index][2])
        fitted = [self._fitted(*requests[index][1:]) for index in order]
        self._restart(max((len(tokens) for tokens, _ in fitted), default=0))
        for index, (tokens, count) in zip(tqdm(order, desc="scoring", disable=disable_tqdm), fitted, strict=True):
            found[index] = self._score(tokens, count)
            self.cache_hook.add_partial("loglikelihood", requests[index][0], found[index])
        return [found[index] for index in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log P of whole texts, in windows of the model's context."""
        sums = []
        for request in requests:
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, context_len=1
            )
            parts = [(None, *make_disjoint_window(window)) for window in windows]
            sums.append(sum(score for score, _ in self._scores_of(parts, disable_tqdm)))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, sums[-1])
        return sums

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The continuation of each prompt, up to one of its stop sequences."""
        answers = []
        for request in tqdm(requests, desc="generating", disable=disable_tqdm):
            prompt, settings = request.args
            answers.append(self._continuation(prompt, dict(normalize_gen_kwargs(settings, MAX_NEW_TOKENS))))
            self.cache_hook.add_partial("generate_until", request.args, answers[-1])
        return answers

    def _scores_of(self, parts: list[Request], disable_tqdm: bool) -> list[Scored]:
        return self._loglikelihood_tokens(parts, disable_tqdm=disable_tqdm or len(parts) == 1)

    def _fitted(self, context: list[int], continuation: list[int]) -> tuple[list[int], int]:
        """The tokens of a request that the context has room for, its end; and how many of them are scored."""
        if not continuation:
            return context[-1:], 0
        if len(continuation) > self.max_length:
            raise InputError(
                f"a continuation of {len(continuation)} tokens is longer than the model's context, {self.max_length}"
            )
        return (context + continuation)[-(self.max_length + 1) :], len(continuation)

    def _score(self, tokens: list[int], count: int) -> Scored:
        if not count:
            return 0.0, True
        begin = len(tokens) - count - 1  # the token whose successor is the first to be scored
        kept = min(_shared(self._read, tokens), begin)
        self._go_back(kept)
        if self._decoder.length < begin:
            self._decoder.step(tokens[self._decoder.length : begin])
        scores, greedy, place = 0.0, True, begin + 1
        for logits in self._decoder.step_each(tokens[begin:-1]):
            chosen, best = log_probabilities(logits, np.array(tokens[place : place + len(logits)], np.int64))
            scores, greedy, place = scores + float(chosen.sum()), greedy and bool(best.all()), place + len(logits)
        self._read = tokens[:-1]
        return scores, greedy

    def _go_back(self, length: int) -> None:
        """Have the first `length` tokens of the last sequence in the cache, or none where it cannot be cut there."""
        try:
            self._decoder.rewind(length)
        except InputError:  # states, and the long factors of LongRoPE
            self._decoder.start(self._decoder.capacity)

    def _restart(self, capacity: int) -> None:
        self._decoder.start(capacity)
        self._read = []

    def _continuation(self, prompt: str, settings: dict[str, Any]) -> str:
        """The answer to one prompt; `settings` are those of the task, normalized by the harness."""
        limit = settings["max_gen_toks"]
        room = self.max_length - limit
        if room < 1:
            raise InputError(f"an answer of {limit} tokens leaves no room for a prompt in {self.max_length}")
        end = self._codec.token_text(self.eot_token_id)[0]
        until = handle_stop_sequences(settings["until"], eos=end)
        sampled = bool(settings.get("do_sample"))
        sampler = Sampler(
            temperature=float(settings.get("temperature") or 1.0) if sampled else 0.0,
            top_k=int(settings.get("top_k") or 0) if sampled else 0,
            top_p=float(settings.get("top_p") or 1.0) if sampled else 1.0,
            min_p=float(settings.get("min_p") or 0.0) if sampled else 0.0,
            repetition_penalty=float(settings.get("repetition_penalty") or 1.0),
            seed=0,
        )
        self._read = []
        text, result, pieces = "", Generation([]), self._codec.pieces()
        tokens = self.tok_encode(prompt)[-room:] or [self.prefix_token_id]
        for token in generate(self._decoder, tokens, limit, sampler, result):
            text += pieces(token)
            if any(stop and stop in text for stop in until):
                break
        return postprocess_generated_text(self._codec.decode(result.tokens), until, None)

    def _special(self, name: str) -> tuple[str, int]:
        found = self._codec.special(name)
        if found is None:
            raise InputError(f"{self._path.parent}: the tokenizer has no {name}")
        return found


register_model("dualbinary")(OnnxLanguageModel)  # no decorator, which would hide the arguments from a type checker


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (mine, theirs) in pairs if mine != theirs), min(len(one), len(other)))
