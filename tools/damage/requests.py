"""Damaged HTTP requests, given to the application without a socket."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime_ext.batch_decoder import load_batch_decoder
from runtime_ext.serve.app import Limits, make_app
from runtime_ext.serve.engine import Engine
from runtime_ext.text import TextCodec
from tools.damage import bases
from tools.fuzz.readers.sections import in_directory

__all__ = ["Request", "answers", "requests"]

_CHAT, _TEXT = "/v1/chat/completions", "/v1/completions"
_JSON = {"content-type": "application/json", "host": "localhost"}
_BODY = 4096  # bytes that the application takes here


@dataclass(frozen=True)
class Request:
    """A damaged request."""

    damage: str
    body: bytes
    path: str = _TEXT
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=lambda: dict(_JSON))


def requests() -> Iterator[Request]:
    """All of them."""
    bodies: dict[str, bytes] = {
        "no body": b"",
        "half a body": b'{"model": ',
        "a list": b"[]",
        "bytes that are not UTF-8": b'{"model": "\xff"}',
        "a body that nests 4,000 deep": b"[" * 4000,
        "a body that nests 200 deep": b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}",
        "a body beyond the limit": b" " * (_BODY + 1),
        "a key twice": b'{"model": "m", "model": "n"}',
        "a number that is none": b'{"model": "m", "prompt": "x", "temperature": NaN}',
        "a number of 1,500 digits": b'{"model": "m", "prompt": "x", "max_tokens": ' + b"9" * 1500 + b"}",
        "a number of 3,000 digits": b'{"model": "m", "prompt": "x", "seed": ' + b"9" * 3000 + b"}",
        "a number of 10^400": b'{"model": "m", "prompt": "x", "temperature": 1e400}',
    }
    for damage, body in bodies.items():
        yield Request(damage, body)
    values: tuple[tuple[str, Mapping[str, Any]], ...] = (
        ("another model", {"model": "other"}),
        ("a model of half a letter", {"model": "\ud800"}),
        ("no model", {"model": None}),
        ("an empty prompt", {"prompt": ""}),
        ("a prompt of half a letter", {"prompt": "\ud800"}),
        ("a prompt beyond the context", {"prompt": "x" * 99}),
        ("a token that is negative", {"prompt": [-1]}),
        ("a token of 2^31", {"prompt": [1 << 31]}),
        ("a token of 2^63", {"prompt": [1 << 63]}),
        ("a token that is a fraction", {"prompt": [1.5]}),
        ("several prompts", {"prompt": ["a", "b"]}),
        ("-1 tokens", {"max_tokens": -1}),
        ("a temperature of 9", {"temperature": 9}),
        ("a seed of 2^63", {"seed": 1 << 63}),
        ("five stop strings", {"stop": ["a"] * 5}),
        ("a stop string of 300 letters", {"stop": "a" * 300}),
        ("an unknown parameter", {"surprise": 1}),
        ("an unknown parameter of half a letter", {"\ud800": 1}),
        ("two answers", {"n": 2}),
        ("9 log probabilities", {"logprobs": 9}),
    )
    for damage, value in values:
        yield Request(damage, json.dumps({"model": "m", "prompt": "x", **value}).encode())
    user = {"role": "user", "content": "x"}
    chats: tuple[tuple[str, Any], ...] = (
        ("no messages", []),
        ("a message that is a text", ["x"]),
        ("an unknown role", [{**user, "role": "root"}]),
        ("a picture", [{**user, "content": [{"type": "image_url", "image_url": {"url": "file:///etc/hostname"}}]}]),
        ("a message of half a letter", [{**user, "content": "\ud800"}]),
        ("a call of a tool", [{**user, "role": "assistant", "tool_calls": [{"id": "x"}]}]),
        ("messages beyond the context", [user] * 20),
    )
    for damage, messages in chats:
        yield Request(damage, json.dumps({"model": "m", "messages": messages}).encode(), _CHAT)
    yield Request("another type of body", b"{}", headers={**_JSON, "content-type": "text/plain"})
    yield Request("a host of elsewhere", b"{}", headers={**_JSON, "host": "evil.example"})
    yield Request("a host that is none", b"{}", headers={**_JSON, "host": "[::1"})
    yield Request("a route that is none", b"", "/v1/files", "GET")
    yield Request("a route that leads out", b"", "/v1/models/../../etc/hostname", "GET")
    yield Request("another method", b"", _TEXT, "GET")


def answers(asked: list[Request]) -> list[tuple[int, str]]:
    """The status and the message of the application for each request."""
    with in_directory(bases.decoder()) as directory:
        decoder = load_batch_decoder(directory / "model.onnx", 1, 32, threads=1, library=False)
        engine = Engine(decoder, 4)
        app = make_app(engine, TextCodec(directory), "m", Limits(_BODY))
        engine.start()
        try:
            return [asyncio.run(_ask(app, request)) for request in asked]
        finally:
            engine.stop()


async def _ask(app: Any, request: Request) -> tuple[int, str]:
    sent: list[dict[str, Any]] = []
    incoming = [{"type": "http.request", "body": request.body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if incoming:
            return incoming.pop()
        await asyncio.sleep(3600)  # the client waits
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(name.encode(), value.encode()) for name, value in request.headers.items()]
    scope = {"type": "http", "method": request.method, "path": request.path, "headers": headers, "query_string": b""}
    scope |= {"scheme": "http", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "http_version": "1.1"}
    await app({**scope, "root_path": "", "raw_path": request.path.encode()}, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(body).get("error", {}).get("message", "")
