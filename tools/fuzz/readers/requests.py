"""Bodies of HTTP requests: runtime_ext.serve.protocol, up to the messages that a template gets."""

import json
from collections.abc import Iterator

from runtime_ext.serve.protocol import ApiError, ChatRequest, CompletionRequest, parse, read_body
from runtime_ext.serve.replies import as_json

NAME = "requests"

_CHAT = {
    "model": "m",
    "messages": [{"role": "system", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "b"}]}],
    "stream": True,
    "stream_options": {"include_usage": True},
    "stop": ["x", "y"],
    "temperature": 0.5,
    "logprobs": True,
    "top_logprobs": 2,
    "seed": 7,
    "response_format": {"type": "text"},
}


def seeds() -> Iterator[bytes]:
    """A request of each kind with all it can have."""
    yield json.dumps(_CHAT).encode()
    yield json.dumps({"model": "m", "prompt": [1, 2, 3], "max_tokens": 5, "logprobs": 2, "top_p": 0.5}).encode()
    yield json.dumps({"model": "m", "prompt": ["Hi"], "suffix": None, "n": 1, "user": "x"}).encode()


def try_input(data: bytes) -> None:
    """Read the body as both kinds of request; what is refused is said in bytes that can be sent."""
    for kind in (ChatRequest, CompletionRequest):
        try:
            asked = parse(kind, read_body(data))
            if isinstance(asked, ChatRequest):
                [message.plain() for message in asked.messages]
            elif isinstance(asked, CompletionRequest):
                _ = asked.text_or_tokens
            _ = (asked.stops, asked.limit, asked.scored, asked.include_usage)
        except ApiError as error:
            as_json(error.content)
