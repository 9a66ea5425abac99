"""The objects of an answer, as the OpenAI API has them: whole, and in the chunks of a stream."""

import json
import time
import uuid
from collections.abc import Sequence
from typing import Any

from runtime_ext.serve.answer import Delta, Scored, Token

__all__ = ["ChatReply", "Reply", "TextReply", "as_json"]

Json = dict[str, Any]


def as_json(content: object) -> bytes:
    """An object as it is sent: in ASCII, since half a surrogate pair, which a request may name, has no UTF-8."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii")


class Reply:
    """Makes the objects of one answer of `model`; `prompt_tokens` for the usage."""

    prefix: str
    kind: str
    chunk_kind: str

    def __init__(self, model: str, prompt_tokens: int, scored: bool, include_usage: bool) -> None:
        self._head = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._prompt_tokens, self._scored, self._include_usage = prompt_tokens, scored, include_usage

    def whole(self, deltas: Sequence[Delta]) -> Json:
        """The one object of an answer that is not streamed; the last of `deltas` ends it."""
        text = "".join(delta.text for delta in deltas)
        scored = [each for delta in deltas for each in delta.scored]
        choice = self._choice(text, scored, deltas[-1].finish_reason)
        return {**self._head, "object": self.kind, "choices": [choice], "usage": self._usage(deltas[-1].tokens)}

    def first(self) -> list[Json]:
        """Chunks before any text."""
        return []

    def chunks(self, delta: Delta) -> list[Json]:
        """The chunks that say `delta`."""
        found = [self._chunk([self._part(delta.text, list(delta.scored), delta.finish_reason)])]
        if delta.last and self._include_usage:
            found.append(self._chunk([]) | {"usage": self._usage(delta.tokens)})
        return found

    def _chunk(self, choices: list[Json]) -> Json:
        usage = {"usage": None} if self._include_usage else {}
        return {**self._head, "object": self.chunk_kind, "choices": choices, **usage}

    def _usage(self, tokens: int) -> Json:
        total = self._prompt_tokens + tokens
        return {"prompt_tokens": self._prompt_tokens, "completion_tokens": tokens, "total_tokens": total}

    def _choice(self, text: str, scored: list[Scored], finish_reason: str | None) -> Json:
        raise NotImplementedError

    def _part(self, text: str, scored: list[Scored], finish_reason: str | None) -> Json:
        raise NotImplementedError


class ChatReply(Reply):
    """Of POST /v1/chat/completions."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def first(self) -> list[Json]:
        """The chunk that says whose message it is."""
        delta = {"role": "assistant", "content": ""}
        return [self._chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])]

    def _choice(self, text: str, scored: list[Scored], finish_reason: str | None) -> Json:
        message = {"role": "assistant", "content": text, "refusal": None}
        logprobs = self._logprobs(scored) if self._scored else None
        return {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish_reason}

    def _part(self, text: str, scored: list[Scored], finish_reason: str | None) -> Json:
        delta = {"content": text} if text or not finish_reason else {}
        logprobs = self._logprobs(scored) if scored else None
        return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}

    def _logprobs(self, scored: list[Scored]) -> Json:
        entries = [_chat_token(each.token) | {"top_logprobs": list(map(_chat_token, each.top))} for each in scored]
        return {"content": entries, "refusal": None}


class TextReply(Reply):
    """Of POST /v1/completions."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def _choice(self, text: str, scored: list[Scored], finish_reason: str | None) -> Json:
        logprobs = self._logprobs(scored) if self._scored else None
        return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}

    def _part(self, text: str, scored: list[Scored], finish_reason: str | None) -> Json:
        return self._choice(text, scored, finish_reason)

    def _logprobs(self, scored: list[Scored]) -> Json:
        return {
            "tokens": [each.token.text for each in scored],
            "token_logprobs": [each.token.logprob for each in scored],
            "top_logprobs": [_by_text(each.top) for each in scored],
            "text_offset": [each.offset for each in scored],
        }


def _by_text(tokens: Sequence[Token]) -> Json:
    """Parts of characters have one text; the most likely of them, which comes first, stands for it."""
    found: Json = {}
    for token in tokens:
        found.setdefault(token.text, token.logprob)
    return found


def _chat_token(token: Token) -> Json:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.data)}
