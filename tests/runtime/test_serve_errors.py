"""What the server refuses, and how it says so."""

import json
import time
from unittest.mock import Mock

import httpx2
import openai
import pytest

from dualbinary import DualBinaryError
from runtime_ext.batch_decoder import load_batch_decoder
from runtime_ext.batcher import Job
from runtime_ext.sampling import Sampler
from runtime_ext.serve.answer import Answer
from runtime_ext.serve.app import Limits
from runtime_ext.text import TextCodec
from tests.support import tiny_sessions as tiny
from tests.support.live_server import ASKED, client, serving
from tests.support.scripted_decoder import ScriptedDecoder

CONTEXT = 60
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def codec(tiny_model) -> TextCodec:
    return TextCodec(tiny_model.parent)


@pytest.fixture(scope="module")
def live(tiny_model, codec):
    with serving(load_batch_decoder(tiny_model, 1, CONTEXT, threads=1, library=False), codec) as (url, _):
        yield client(url)


@pytest.fixture
def script(codec):
    return ScriptedDecoder(codec.encode("hello "), tiny.BYTES + len(tiny.SPECIAL_TOKENS))


CHAT, COMPLETION = {"messages": ASKED}, {"prompt": "Hi"}


@pytest.mark.parametrize(
    ("body", "status", "param", "message"),
    [
        (CHAT | {"n": 2}, 400, "n", "n: not supported by this server but for 1, got 2; leave it out"),
        (CHAT | {"tools": [{"type": "function"}]}, 400, "tools", "tools: not supported"),
        (CHAT | {"response_format": {"type": "json_object"}}, 400, "response_format", "not supported"),
        (CHAT | {"audio": {"voice": "x"}}, 400, "audio", "not supported by this server, got"),
        (CHAT | {"frequency_penalty": 2.5}, 400, "frequency_penalty", "less than or equal to 2, got 2.5"),
        (CHAT | {"repetition_penalty": 0}, 400, "repetition_penalty", "greater than or equal to 0.1"),
        (CHAT | {"min_p": -0.1}, 400, "min_p", "greater than or equal to 0"),
        (CHAT | {"logit_bias": {"5": 1}}, 400, "logit_bias", "not supported"),
        (CHAT | {"temperature": 2.5}, 400, "temperature", "less than or equal to 2, got 2.5"),
        (CHAT | {"temperature": "hot"}, 400, "temperature", 'a valid number, got "hot"'),
        (CHAT | {"top_p": 0}, 400, "top_p", "greater than 0"),
        (CHAT | {"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
        (CHAT | {"stop": ["x"] * 5}, 400, "stop", "at most 4 strings, got 5"),
        (CHAT | {"stop": ""}, 400, "stop", "at least 1 character"),
        (CHAT | {"top_logprobs": 2}, 400, "top_logprobs", "only with logprobs"),
        (CHAT | {"stream_options": {"include_usage": True}}, 400, "stream_options", "only with stream"),
        (CHAT | {"unheard_of": 1}, 400, "unheard_of", "not a parameter of this server"),
        (CHAT | {"model": "other"}, 404, "model", "expected tiny, the one that this server has, got other"),
        ({"messages": []}, 400, "messages", "at least 1 item"),
        ({}, 400, "messages", "messages: missing"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role", "'user' or 'assistant'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            400,
            "messages.0.content.0.type",
            "should be 'text', got \"image_url\"",
        ),
        (
            {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]},
            400,
            "messages.0",
            "tool_calls is not supported in a message",
        ),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, None, "not valid UTF-8"),
        ({"messages": [{"role": "user", "content": "x" * 100}]}, 400, None, f"context only {CONTEXT}"),
        (COMPLETION | {"echo": True}, 400, "echo", "echo: not supported"),
        (COMPLETION | {"logprobs": 6}, 400, "logprobs", "less than or equal to 5"),
        ({"prompt": ["a", "b"]}, 400, "prompt", "at most 1 item"),
        ({"prompt": ""}, 400, None, "the prompt is empty"),
        ({"prompt": [1, 99999]}, 400, None, "token id 99999"),
        ({"prompt": [1, -1]}, 400, None, "token id -1"),
    ],
)
def test_what_is_not_supported_or_wrong_is_named(live, body, status, param, message):
    path = "completions" if "prompt" in body else "chat/completions"
    answer = httpx2.post(f"{live.base_url}{path}", content=json.dumps({"model": "tiny"} | body).encode(), headers=JSON)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "content", "headers", "status", "message"),
    [
        ("POST", "completions", b"{", JSON, 400, "the body is not JSON"),
        ("POST", "completions", b"[" * 100_000, JSON, 400, "the body is not JSON"),
        ("POST", "completions", b"[]", JSON, 400, "expected a JSON object, got list"),
        ("POST", "completions", b"{}", {"Content-Type": "text/plain"}, 415, "expected application/json"),
        ("POST", "completions", b"x" * ((1 << 20) + 1), JSON, 413, "longer than 1048576 bytes"),
        ("GET", "completions", None, {}, 405, "Method Not Allowed"),
        ("GET", "embeddings", None, {}, 404, "no such route"),
        ("GET", "models/other", None, {}, 404, "expected tiny"),
        ("GET", "models", None, {"Host": "evil.example"}, 403, "this machine alone"),
        ("POST", "completions", b"{}", {"Host": "evil.example", **JSON}, 403, "this machine alone"),
    ],
)
def test_requests_that_are_none_get_an_error_object(live, method, path, content, headers, status, message):
    answer = httpx2.request(method, f"{live.base_url}{path}", content=content, headers=headers)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("host", ["localhost:80", "127.0.0.1", "127.0.0.2:8000", "[::1]", "[::1]:8000"])
def test_every_name_and_address_of_this_machine_is_taken(live, host):
    assert httpx2.get(f"{live.base_url}models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1.evil.example", "localhost.evil.example:80", "128.0.0.1", "[::2]"])
def test_hosts_that_only_look_like_this_machine_are_refused(live, host):
    assert httpx2.get(f"{live.base_url}models", headers={"Host": host}).status_code == 403


def test_a_body_that_does_not_come_is_not_waited_for(codec, script):
    def slowly():
        yield b"{"
        time.sleep(0.5)
        yield b"}"

    with serving(script, codec, limits=Limits(body_seconds=0.1)) as (url, _):
        answer = httpx2.post(f"{url}/completions", content=slowly(), headers=JSON)
    assert answer.status_code == 408


def test_a_key_is_asked_for_everywhere_but_at_health(codec, script):
    with serving(script, codec, limits=Limits(key="sécret")) as (url, _):
        for wrong in ("other", "s"):
            with pytest.raises(openai.AuthenticationError, match="missing or wrong"):
                client(url, wrong).models.list()
            with pytest.raises(openai.AuthenticationError):
                client(url, wrong).chat.completions.create(model="tiny", messages=ASKED)
        for given, status in (("Bearer sécret", 200), ("bearer sécret", 200), ("Basic sécret", 401), ("Bearer", 401)):
            headers = {b"Authorization": given.encode()}
            assert httpx2.get(f"{url}/models", headers=headers).status_code == status
        assert httpx2.get(url.replace("/v1", "/health")).status_code == 200


def test_an_answer_that_fails_is_one_error_and_others_go_on(codec, script, monkeypatch, capfd):
    def fail(self, token, logits):
        raise ValueError("no such text")

    with serving(script, codec) as (url, engine):
        with monkeypatch.context() as patch:
            patch.setattr(Answer, "take", fail)  # a bug
            with pytest.raises(openai.InternalServerError, match="what takes the tokens failed: ValueError"):
                client(url).chat.completions.create(model="tiny", messages=ASKED)
        answer = client(url).chat.completions.create(model="tiny", messages=ASKED, max_tokens=5, temperature=0)
        assert answer.choices[0].message.content == "hello"
        assert (engine.alive, engine.jobs, script.free) == (True, 0, script.slots)
    assert "ValueError: no such text" in capfd.readouterr().err  # with its traceback


def test_a_bug_at_the_end_of_an_answer_leaves_the_model_running(codec, script, capfd):
    def end(reason):
        raise ValueError("no such end")

    with serving(script, codec) as (url, engine):
        engine.submit(Job([1, 2], 3, Sampler(), lambda token, logits: False, end))
        answer = client(url).chat.completions.create(model="tiny", messages=ASKED, max_tokens=5, temperature=0)
        assert answer.choices[0].message.content == "hello"
        assert (engine.alive, engine.jobs, script.free) == (True, 0, script.slots)
    assert "ValueError: no such end" in capfd.readouterr().err


def test_a_slot_without_memory_is_an_error_of_its_request_alone(codec, script, monkeypatch):
    with serving(script, codec) as (url, engine):
        with monkeypatch.context() as patch:
            patch.setattr(script, "open", Mock(side_effect=DualBinaryError("a slot of 64 tokens cannot be had")))
            with pytest.raises(openai.InternalServerError, match="cannot be had"):
                client(url).chat.completions.create(model="tiny", messages=ASKED)
        answer = client(url).chat.completions.create(model="tiny", messages=ASKED, max_tokens=5, temperature=0)
        assert (answer.choices[0].message.content, engine.alive) == ("hello", True)
