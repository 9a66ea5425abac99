"""What a call for text gives, and how long it may get."""

from collections.abc import Sequence
from dataclasses import dataclass

from dualbinary import InputError

__all__ = ["Generation", "answer_limit"]


@dataclass
class Generation:
    """The result of one call: token ids, why it ended, and how long it took in seconds.

    `finish_reason` is "stop" at an end-of-text token (which is not among `tokens`) and "length" at the limit. `runs`
    are those of the model after the prompt; of `guessed` tokens that they checked (runtime_ext/speculation), `accepted`
    were right.
    """

    tokens: list[int]
    finish_reason: str = "length"
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0
    runs: int = 0
    guessed: int = 0
    accepted: int = 0

    @property
    def tokens_per_second(self) -> float | None:
        """Of decoding, after the first token, which the prompt's run gives; None where there was no run after it.

        A run gives a token, one that ends the text too, and those that were guessed right.
        """
        return (self.runs + self.accepted) / self.decode_seconds if self.runs and self.decode_seconds else None


def answer_limit(prompt: Sequence[int], max_new_tokens: int, context: int) -> int:
    """The tokens that may follow `prompt`: `max_new_tokens`, or what the context leaves.

    Raises InputError where the prompt is empty or leaves no room in the context.
    """
    if not prompt:
        raise InputError("the prompt is empty: it has no token to continue from")
    if len(prompt) >= context:
        raise InputError(
            f"the prompt has {len(prompt)} tokens, the model's context only {context} for it and the answer"
        )
    return min(max_new_tokens, context - len(prompt))
