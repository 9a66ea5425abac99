"""Clients that vanish at any moment, in the middle of what they send or of what they get: others notice nothing."""

import asyncio
import contextlib
import json
import random
import socket
import struct
import threading
import time
from urllib.parse import urlsplit

import pytest
from starlette.types import Message

from runtime_ext.batch_decoder import load_batch_decoder
from runtime_ext.serve.app import Limits, make_app
from runtime_ext.serve.engine import Engine
from runtime_ext.text import TextCodec
from tests.support.live_server import client, serving
from tests.support.scripted_decoder import ScriptedDecoder

CONTEXT = 60
VANISHING = 40
OUTCOMES = {"disconnected", "length", "stop", "canceled"}


@pytest.fixture(scope="module")
def codec(tiny_model) -> TextCodec:
    return TextCodec(tiny_model.parent)


def vanish(url: str, draw: random.Random, number: int) -> None:
    """Send a request up to a byte, or read its answer up to one, and be gone: closed, or reset."""
    place = urlsplit(url)
    body = json.dumps({"model": "tiny", "prompt": f"Hi {number}", "max_tokens": 24, "stream": number % 2 == 0}).encode()
    lines = [f"POST {place.path}/completions HTTP/1.1", f"Host: {place.netloc}", "Content-Type: application/json"]
    request = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
        if draw.random() < 0.5:
            connection.sendall(request[: draw.randrange(1, len(request))])
        else:
            connection.sendall(request)
            if draw.random() < 0.7:
                connection.recv(draw.randrange(1, 2000))
        time.sleep(draw.uniform(0, 0.02))
        if draw.random() < 0.5:  # a reset, as of a machine that went down
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_clients_that_vanish_at_random_moments_change_no_other_answer(tiny_model, codec, capfd):
    log: list[dict] = []
    decoder = load_batch_decoder(tiny_model, 2, CONTEXT, threads=1, library=False)
    with serving(decoder, codec, queue=VANISHING, log=log) as (url, engine):
        patient = client(url)

        def ask() -> str:
            return patient.completions.create(model="tiny", prompt="Once", max_tokens=12, temperature=0).choices[0].text

        wanted = ask()
        draws = [random.Random(f"vanishing {number}") for number in range(VANISHING)]
        threads = [threading.Thread(target=vanish, args=(url, draw, number)) for number, draw in enumerate(draws)]
        for thread in threads[: VANISHING // 2]:
            thread.start()
        answers = [ask()]
        for thread in threads[VANISHING // 2 :]:
            thread.start()
        answers += [ask() for _ in range(3)]
        for thread in threads:
            thread.join()
        deadline = time.monotonic() + 60
        while engine.jobs and time.monotonic() < deadline:
            time.sleep(0.02)
        assert engine.jobs == 0  # each slot is free again
        answers.append(ask())
        assert answers == [wanted] * len(answers)
        assert engine.alive
    assert {entry["outcome"] for entry in log} <= OUTCOMES
    assert sum(entry["outcome"] == "disconnected" for entry in log) > 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("leaves", ["waits", "raises"])
def test_a_client_that_leaves_before_the_first_byte_of_a_stream_frees_its_slot(codec, leaves):
    """As a connection is that takes nothing, or broke, before the answer's head is sent."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    log: list[dict] = []
    decoder = ScriptedDecoder(codec.encode("hello "), 300, slots=1, capacity=10**6)
    decoder.gate.clear()
    engine = Engine(decoder, 1)
    app = make_app(engine, codec, "tiny", Limits(), log.append)
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "query_string": b"",
    }
    scope |= {"headers": [(b"host", b"localhost"), (b"content-type", b"application/json")]}

    async def ask() -> None:
        sent = asyncio.Event()
        request = [{"type": "http.request", "body": json.dumps(body).encode()}]

        async def receive() -> Message:
            if request:
                return request.pop()
            await sent.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.set()
            if leaves == "raises":
                raise OSError("broken pipe")
            await asyncio.Event().wait()

        with contextlib.suppress(OSError):
            await app(scope, receive, send)

    engine.start()
    try:
        asyncio.run(ask())
        decoder.gate.set()
        deadline = time.monotonic() + 20
        while engine.jobs and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (engine.jobs, decoder.free) == (0, 1)
        assert decoder.runs <= 2
        assert [entry["outcome"] for entry in log] == ["disconnected"]
    finally:
        engine.stop()
