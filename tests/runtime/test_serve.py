"""The server as OpenAI's own client sees it, over a tiny model and over a script."""

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import numpy as np
import openai
import pytest

from runtime_ext.batch_decoder import load_batch_decoder
from runtime_ext.decoder import Decoder
from runtime_ext.generate import generate
from runtime_ext.generation import Generation
from runtime_ext.sampling import Sampler
from runtime_ext.serve.app import Limits
from runtime_ext.text import TextCodec
from tests.support import tiny_sessions as tiny
from tests.support.live_server import ASKED, client, serving
from tests.support.scripted_decoder import LIKELY, ScriptedDecoder

CONTEXT = 60
SCRIPT = "Grüße, 🌟 world! "


@pytest.fixture(scope="module")
def codec(tiny_model) -> TextCodec:
    return TextCodec(tiny_model.parent)


@pytest.fixture(scope="module")
def decoder(tiny_model) -> Decoder:
    return Decoder.load(tiny_model, threads=1, library=False)


@pytest.fixture(scope="module")
def live(tiny_model, codec):
    """The tiny model with three slots."""
    with serving(load_batch_decoder(tiny_model, 3, CONTEXT, threads=1, library=False), codec) as (url, _):
        yield client(url)


@pytest.fixture
def script(codec):
    """A decoder that says SCRIPT over and over."""
    return ScriptedDecoder(codec.encode(SCRIPT), tiny.BYTES + len(tiny.SPECIAL_TOKENS))


def alone(decoder, prompt, limit, **sampling):
    result = Generation([])
    list(generate(decoder, prompt, limit, Sampler(**sampling), result))
    return result.tokens


def test_a_completion_is_the_text_that_the_decoder_gives(live, codec, decoder):
    answer = live.completions.create(model="tiny", prompt="Hello", max_tokens=9, temperature=0)
    tokens = alone(decoder, codec.encode("Hello"), 9)
    assert answer.choices[0].text == codec.decode(tokens)
    assert answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 9, 14)
    by_tokens = live.completions.create(model="tiny", prompt=codec.encode("Hello"), max_tokens=9, temperature=0)
    assert by_tokens.choices[0].text == answer.choices[0].text
    assert live.completions.create(model="tiny", prompt=["Hello"]).usage.completion_tokens <= 16  # the default


@pytest.mark.parametrize("temperature", [0, 1])
def test_penalties_and_min_p_are_those_of_the_sampler(live, codec, decoder, temperature):
    penalties: Any = {"presence_penalty": 0.5, "frequency_penalty": 0.7}
    more: Any = {"repetition_penalty": 1.3} | ({"min_p": 0.02} if temperature else {})
    answer = live.completions.create(
        model="tiny", prompt="Hello", max_tokens=12, temperature=temperature, seed=1, extra_body=more, **penalties
    )
    expected = alone(decoder, codec.encode("Hello"), 12, temperature=temperature, seed=1, **penalties, **more)
    assert answer.choices[0].text == codec.decode(expected)
    assert temperature or len(set(expected)) > len(set(alone(decoder, codec.encode("Hello"), 12)))


def test_a_chat_is_put_into_the_template(live, codec, decoder):
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    for content in ("Hi", parts):
        messages = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": content}]
        answer = live.chat.completions.create(model="tiny", messages=messages, max_completion_tokens=5, temperature=0)
        prompt = codec.encode_messages([{"role": "system", "content": "be brief"}, {"role": "user", "content": "Hi"}])
        assert answer.usage.prompt_tokens == len(prompt)
        assert answer.choices[0].message.content == codec.decode(alone(decoder, prompt, 5))
        assert answer.choices[0].message.role == "assistant"


def test_an_answer_can_be_sent_back_as_it_came(live):
    first = live.chat.completions.create(model="tiny", messages=ASKED, max_tokens=2)
    messages = [*ASKED, first.choices[0].message, {"role": "user", "content": "and?"}]
    assert live.chat.completions.create(model="tiny", messages=messages, max_tokens=2).choices


@pytest.mark.parametrize("temperature", [0, 1])
def test_many_requests_at_once_get_what_each_gets_alone(live, codec, decoder, temperature):
    prompts = [f"{'x' * (3 * number)}{number}" for number in range(10)]

    def ask(number):
        answer = live.completions.create(
            model="tiny", prompt=prompts[number], max_tokens=14, temperature=temperature, seed=number
        )
        return answer.choices[0].text

    with ThreadPoolExecutor(len(prompts)) as pool:
        found = list(pool.map(ask, range(len(prompts))))
    for number, text in enumerate(found):
        tokens = alone(decoder, codec.encode(prompts[number]), 14, temperature=temperature, seed=number)
        assert text == codec.decode(tokens)


def test_a_seed_makes_an_answer_repeatable(live):
    def ask(seed):
        options = {"temperature": 1.5, "top_p": 0.9, "seed": seed, "extra_body": {"top_k": 50}}
        return live.completions.create(model="tiny", prompt="Hello", max_tokens=20, **options).choices[0].text

    assert ask(1) == ask(1) != ask(-2) == ask(-2)


def test_logprobs_are_those_of_the_decoder(live, codec, decoder):
    prompt = codec.encode("Hello")
    answer = live.completions.create(model="tiny", prompt="Hello", max_tokens=6, temperature=0, logprobs=3)
    scored = answer.choices[0].logprobs
    tokens = alone(decoder, prompt, 6)
    for place, token in enumerate(tokens):
        decoder.start(20)
        logits = decoder.step([*prompt, *tokens[:place]])
        expected = logits - np.log(np.exp(logits, dtype=np.float64).sum())
        assert scored.token_logprobs[place] == pytest.approx(expected[token], abs=1e-4)
        best = {}
        for each in np.argsort(-expected)[:3]:
            best.setdefault(codec.token_text(int(each))[0], expected[each])
        assert scored.top_logprobs[place] == pytest.approx(best, abs=1e-4)
    chat = live.chat.completions.create(
        model="tiny", messages=ASKED, max_tokens=4, temperature=0, logprobs=True, top_logprobs=2
    )
    entries = chat.choices[0].logprobs.content
    assert len(entries) == 4
    for entry in entries:
        assert (entry.token, entry.logprob) == (entry.top_logprobs[0].token, entry.top_logprobs[0].logprob)
        assert bytes(entry.bytes).decode(errors="replace") == entry.token
        assert len(entry.top_logprobs) == 2


@pytest.mark.parametrize("chat", [True, False])
def test_a_stream_has_whole_characters_and_counts_at_its_end(codec, script, chat):
    options = {"max_tokens": 2 * len(SCRIPT.encode()), "stream": True, "stream_options": {"include_usage": True}}
    with serving(script, codec) as (url, _):
        api = client(url)
        if chat:
            chunks = list(api.chat.completions.create(model="tiny", messages=ASKED, temperature=0, **options))
            assert chunks[0].choices[0].delta.role == "assistant"
            texts = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
        else:
            chunks = list(api.completions.create(model="tiny", prompt="Hi", temperature=0, **options))
            texts = [chunk.choices[0].text for chunk in chunks[:-1]]
    assert "".join(texts) == 2 * SCRIPT
    assert len(texts) > len(SCRIPT)
    assert "\ufffd" not in "".join(texts)
    assert chunks[-2].choices[0].finish_reason == "length"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-2]] == [None] * (len(chunks) - 2)
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == options["max_tokens"]
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


@pytest.mark.parametrize(
    ("stop", "text", "tokens"),
    [
        ("world", "Grüße, 🌟 ", 19),
        (["!", "ß"], "Grü", 6),
        ("🌟", "Grüße, ", 13),
        (["ldx", "d! G"], "Grüße, 🌟 worl", 22),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_a_stop_string_ends_the_answer_before_it(codec, script, stop, text, tokens, stream):
    with serving(script, codec) as (url, _):
        request = {
            "model": "tiny",
            "messages": ASKED,
            "stop": stop,
            "temperature": 0,
            "stream": stream,
            "logprobs": True,
        }
        answer = client(url).chat.completions.create(**request)
        choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
        assert "".join((each.delta if stream else each.message).content or "" for each in choices) == text
        assert choices[-1].finish_reason == "stop"
        scored = [entry for each in choices if each.logprobs for entry in each.logprobs.content]
        assert b"".join(bytes(entry.bytes) for entry in scored).decode() == text
        assert script.free == script.slots
        if not stream:
            assert answer.usage.completion_tokens == tokens


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it does not come to that"
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_slot(codec, script, stream):
    log = []
    script.gate.clear()
    with serving(script, codec, log=log) as (url, engine):
        request = {"model": "tiny", "messages": ASKED, "stream": stream, "temperature": 0}
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(f"{url}/chat/completions", json=request, timeout=0.3)
        wait_for(lambda: log)
        assert log[0]["outcome"] == "disconnected"
        script.gate.set()
        wait_for(lambda: script.free == script.slots)
        assert engine.jobs == 0
        assert script.runs <= 2  # the one that waited, and one that may have begun before the slot was free


def test_more_requests_than_may_wait_are_refused_and_told_when_to_come_back(codec, script):
    script.gate.clear()
    with serving(script, codec, queue=1) as (url, engine), ThreadPoolExecutor(3) as pool:
        request = {"model": "tiny", "messages": ASKED, "max_tokens": 3, "temperature": 0}
        taken = [pool.submit(client(url).chat.completions.create, **request) for _ in range(3)]
        wait_for(lambda: engine.jobs == 3)
        with pytest.raises(openai.RateLimitError, match="1 requests wait already") as refused:
            client(url).chat.completions.create(**request)
        assert refused.value.response.headers["retry-after"] == "1"
        assert refused.value.code == "queue_full"
        script.gate.set()
        assert [each.result().usage.completion_tokens for each in taken] == [3] * 3


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_takes_too_long_is_given_up(codec, script, stream):
    script.gate.clear()
    with serving(script, codec, limits=Limits(seconds=0.2)) as (url, engine):
        with pytest.raises(openai.APIError, match=r"not complete within 0\.2 s") as found:
            list(client(url).chat.completions.create(model="tiny", messages=ASKED, stream=stream))
        assert found.value.code == "timeout"
        script.gate.set()
        wait_for(lambda: engine.jobs == 0)
        assert script.runs <= 2


@pytest.mark.parametrize("stream", [True, False])
def test_a_model_that_fails_is_an_error_of_the_server_and_the_next_request_runs(codec, script, monkeypatch, stream):
    with serving(script, codec) as (url, _):
        with monkeypatch.context() as patch:
            patch.setattr(script, "script", [0])
            patch.setattr("tests.support.scripted_decoder.LIKELY", float("nan"))
            with pytest.raises(openai.APIError, match="the logits are not finite") as found:
                list(client(url).chat.completions.create(model="tiny", messages=ASKED, stream=stream))
        assert found.value.type == "server_error"
        answer = client(url).chat.completions.create(model="tiny", messages=ASKED, max_tokens=4, temperature=0)
        assert answer.choices[0].message.content == "Grü"
    assert LIKELY == 8


def test_models_and_health(live):
    assert [model.id for model in live.models.list()] == ["tiny"]
    assert live.models.retrieve("tiny").object == "model"
    for path in ("health", "ready"):
        answer = httpx2.get(str(live.base_url).replace("v1/", path))
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")


def test_health_says_when_the_model_does_not_run_any_more(codec, script, capsys):
    with serving(script, codec) as (url, _):
        script.read = None  # a bug
        with pytest.raises(openai.InternalServerError, match="the model thread failed: TypeError"):
            client(url).chat.completions.create(model="tiny", messages=ASKED)
        assert httpx2.get(url.replace("/v1", "/health")).status_code == 503
        with pytest.raises(openai.InternalServerError, match="does not run any more"):
            client(url).chat.completions.create(model="tiny", messages=ASKED)
    capsys.readouterr()


def test_the_command_serves_until_a_signal_and_lets_answers_end(tiny_model):
    options = ["--port", "0", "--slots", "2", "--no-library", "--json", "--model-name", "mine"]
    command = [sys.executable, "-m", "runtime_ext", "serve", str(tiny_model), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert (first["event"], first["model"], first["slots"]) == ("listening", "mine", 2)
        assert first["context"] == tiny.CONTEXT_LENGTH
        assert client(first["url"]).completions.create(model="mine", prompt="x", max_tokens=3).choices
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    entry = json.loads(out.splitlines()[0])
    assert (entry["path"], entry["prompt_tokens"], entry["completion_tokens"]) == ("/v1/completions", 1, 3)
    assert err == ""


def test_a_signal_that_comes_with_the_first_line_ends_the_command_as_any(tiny_model):
    command = [sys.executable, "-m", "runtime_ext", "serve", str(tiny_model), "--port", "0", "--no-library"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert " slots of " in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")


def test_a_model_thread_that_fails_ends_the_command_with_1(tiny_model):
    script = (
        "import sys; from runtime_ext.__main__ import main; from runtime_ext.batcher import Batcher\n"
        "Batcher.advance = None  # a bug\n"
        f"sys.exit(main(['serve', {str(tiny_model)!r}, '--port', '0', '--no-library', '--json']))\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        with pytest.raises(openai.InternalServerError, match="the model thread failed: TypeError"):
            client(first["url"]).completions.create(model=first["model"], prompt="x", max_tokens=3)
        try:
            _, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith("error: the model thread failed: TypeError")


def test_a_port_that_is_taken_exits_2_with_one_line(tiny_model, codec, script, capsys):
    from runtime_ext.__main__ import main

    with serving(script, codec) as (url, _):
        port = url.split(":")[2].removesuffix("/v1")
        assert main(["serve", str(tiny_model), "--no-library", "--port", port]) == 2
    assert capsys.readouterr().err == f"error: cannot listen at 127.0.0.1 port {port}: Address already in use\n"


def test_a_character_that_some_take_for_a_line_end_breaks_no_event(codec):
    """Python's str.splitlines ends lines at these, and so do clients that are built on it."""
    text = "a\u2028b\u2029c\x85d "
    decoder = ScriptedDecoder(codec.encode(text), tiny.BYTES + len(tiny.SPECIAL_TOKENS))
    request = {"model": "tiny", "prompt": "Hi", "max_tokens": len(codec.encode(text)), "temperature": 0, "stream": True}
    with serving(decoder, codec) as (url, _), httpx2.stream("POST", f"{url}/completions", json=request) as answer:
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert events.pop() == "[DONE]"
    assert "".join(choice["text"] for event in events for choice in json.loads(event)["choices"]) == text
