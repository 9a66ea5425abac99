"""Connections that send nothing, too little or too many at a time, and texts that would wait without end."""

import socket
import threading
import time

import httpx2
import pytest

from runtime_ext.text import TextCodec
from tests.support import tiny_sessions as tiny
from tests.support.live_server import serving
from tests.support.scripted_decoder import ScriptedDecoder

PATIENCE = 60  # seconds; what is waited for takes a few
ASK = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def codec(tiny_model) -> TextCodec:
    return TextCodec(tiny_model.parent)


@pytest.fixture
def script(codec):
    return ScriptedDecoder(codec.encode("hello "), tiny.BYTES + len(tiny.SPECIAL_TOKENS))


def opened(url):
    connection = socket.create_connection((httpx2.URL(url).host, httpx2.URL(url).port), PATIENCE)
    connection.settimeout(PATIENCE)
    return connection


def ended(connection):
    """Whether the other side closes, which is waited for."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


def answered(connection):
    """Whether the answer to ASK comes, which is an object."""
    connection.sendall(ASK)
    data = b""
    while b"}" not in data:
        data += connection.recv(4096)
    return b"200" in data


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: loc"], ids=["nothing", "half a head"])
def test_a_head_that_does_not_come_is_not_waited_for(script, codec, sent):
    with serving(script, codec, head_seconds=0.2) as (url, _), opened(url) as connection:
        connection.sendall(sent)
        assert ended(connection)


def test_drops_do_not_keep_a_connection(script, codec):
    with serving(script, codec, head_seconds=0.5) as (url, _), opened(url) as connection:
        assert answered(connection)
        began = time.monotonic()
        with pytest.raises(
            ConnectionError
        ):  # half a second after the answer's end, though there is always a letter more
            while time.monotonic() - began < PATIENCE:
                connection.sendall(b"G")
                time.sleep(0.05)


def test_connections_above_the_limit_are_closed_and_others_go_on(script, codec):
    with serving(script, codec, connections=2) as (url, _), opened(url) as first, opened(url) as second:
        assert answered(first)
        assert answered(second)
        with opened(url) as third:
            assert ended(third)
        assert answered(first)


def test_texts_that_wait_are_bounded(script, codec, monkeypatch):
    going, asked = threading.Event(), []

    def wait(text):
        asked.append(text)
        assert going.wait(PATIENCE)
        return [1]

    monkeypatch.setattr(codec, "encode", wait)
    answers = []
    with serving(script, codec, queue=0) as (url, engine):

        def ask():
            body = {"model": "tiny", "prompt": "x", "max_tokens": 1}
            answers.append(httpx2.post(f"{url}/completions", json=body, timeout=PATIENCE).status_code)

        threads = [threading.Thread(target=ask) for _ in range(engine.limit + 1)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + PATIENCE
        while not answers and time.monotonic() < deadline:
            time.sleep(0.01)
        assert answers == [429]
        going.set()
        for thread in threads:
            thread.join()
    assert sorted(answers)[-1] == 429
    assert answers.count(200) >= 1
