"""Sequences up to the last token of the context, several at once: the end is exact, and the same each time."""

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dualbinary import InputError
from runtime_ext.decoder import Decoder
from tools.soak.memory import Memory
from tools.soak.task import Request, Tally, Task, answer
from tools.soak.threads import in_threads

NAME = "full_context"
SHORT_OF_IT = 16  # tokens that are left when the prompt has been read
KINDS = 2  # prompts; a long one takes seconds to minutes


def run(task: Task, tally: Tally, memory: Memory) -> None:
    """Answer long requests until there are no more."""
    first = Decoder.load(task.model, 1, task.library)
    config = replace(first.config, context_length=task.context)
    random = np.random.default_rng(1)
    vocabulary = first.vocabulary or 2
    length = task.context - min(SHORT_OF_IT, task.context // 2)
    prompts = [tuple(int(token) for token in random.integers(0, vocabulary, length)) for _ in range(KINDS)]
    # A token that ends the text would end it before the context does.
    requests = [Request(prompt, 2 * task.context, float(place), place) for place, prompt in enumerate(prompts)]
    expected = [answer(Decoder(first.session, config), request) for request in requests]
    memory.begin()

    def work(places: Iterator[int]) -> None:
        decoder = Decoder(first.session, config)
        for place in places:
            begin = time.perf_counter()
            tokens = answer(decoder, requests[place])
            tally.note(len(tokens), time.perf_counter() - begin, right=tokens == expected[place])
            if len(requests[place].prompt) + len(tokens) == task.context:
                _go_beyond(decoder, tokens[-1], tally)

    in_threads(task, tally, work, KINDS)


def _go_beyond(decoder: Decoder, last: int, tally: Tally) -> None:
    """The last token, which nobody has fed yet, has a place in the cache; one more has none."""
    decoder.step([last])
    try:
        decoder.step([last])
    except InputError:
        tally.count("refused beyond the end")
    else:
        tally.fail("a token beyond the context was taken")
