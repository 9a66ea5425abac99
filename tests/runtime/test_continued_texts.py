"""Texts that are continued, by a model whose tokenizer cuts the blank off where a text begins, as Llama 2's does."""

import json

import pytest

from runtime_ext.__main__ import main
from runtime_ext.text import TextCodec
from tests.support import tiny_sessions as tiny
from tests.support.fallback_tokenizers import BYTE, WORDS, fallback_tokenizer
from tests.support.live_server import ASKED, client, serving
from tests.support.scripted_decoder import ScriptedDecoder

WORD = dict(zip(WORDS, range(1, len(WORDS) + 1), strict=True))
SCRIPT = [WORD["▁the"], BYTE[0xC3], BYTE[0xA9], WORD["▁é🙂"], WORD["the"], BYTE[0x20], WORD["x"]]
TEXT = " theé é🙂the x"


@pytest.fixture
def codec(tmp_path) -> TextCodec:
    fallback_tokenizer().save(str(tmp_path / "tokenizer.json"))
    tiny.write_json(tmp_path / "tokenizer_config.json", {"eos_token": "</s>", "chat_template": tiny.CHAT_TEMPLATE})
    return TextCodec(tmp_path)


@pytest.fixture
def api(codec):
    with serving(ScriptedDecoder(SCRIPT, 300), codec) as (url, _):
        yield client(url)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("chat", [True, False])
def test_a_completion_keeps_its_first_blank_and_a_chat_begins_without(api, chat, stream):
    options = {"model": "tiny", "max_tokens": len(SCRIPT), "temperature": 0, "stream": stream}
    if chat:
        options |= {"messages": ASKED}
        answer = api.chat.completions.create(**options)
        parts = [each.choices[0].delta for each in answer] if stream else [answer.choices[0].message]
        assert "".join(each.content or "" for each in parts) == TEXT[1:]
    else:
        answer = api.completions.create(prompt="x x", **options)
        assert "".join(each.choices[0].text for each in (answer if stream else [answer])) == TEXT


@pytest.mark.parametrize("stop", [" é", "é🙂", "the x"])
def test_bytes_of_log_probabilities_are_the_text(api, stop):
    asked = {"model": "tiny", "max_tokens": len(SCRIPT), "temperature": 0}
    chat = api.chat.completions.create(messages=ASKED, logprobs=True, top_logprobs=2, **asked).choices[0]
    entries = chat.logprobs.content
    assert b"".join(bytes(each.bytes) for each in entries).decode() == chat.message.content == TEXT[1:]
    assert [each.token for each in entries] == ["the", "\ufffd", "\ufffd", " é🙂", "the", " ", "x"]
    text = api.completions.create(prompt="x", logprobs=5, **asked).choices[0]
    assert text.text == TEXT
    assert text.logprobs.tokens == [" the", "\ufffd", "\ufffd", " é🙂", "the", " ", "x"]
    assert text.logprobs.text_offset == [0, 4, 4, 5, 8, 11, 12]
    assert [next(iter(best)) for best in text.logprobs.top_logprobs] == text.logprobs.tokens
    stopped = api.completions.create(prompt="x", stop=stop, logprobs=0, **asked).choices[0]
    assert stopped.text == TEXT[: TEXT.index(stop)]


def test_a_word_with_a_blank_and_without_are_two_in_the_most_likely_ones(codec):
    decoder = ScriptedDecoder([WORD["▁the"]], 4)  # ids 0 to 3: <unk>, a blank, and both words
    with serving(decoder, codec) as (url, _):
        asked = {"model": "tiny", "prompt": [WORD["▁the"]], "logprobs": 4, "max_tokens": 2, "temperature": 0}
        first, second = client(url).completions.create(**asked).choices[0].logprobs.top_logprobs
    assert set(first) == set(second) == {"<unk>", " ", " the", "the"}
    assert first[" the"] > first["the"]


@pytest.mark.parametrize("prompts", [True, False])
def test_generate_continues_the_prompt_with_its_blank(tiny_copy, tmp_path, capsys, prompts):
    file = tmp_path / "prompts.txt"
    file.write_text("x\n")
    options = ["--prompts", file] if prompts else ["--prompt", "x"]

    def run(*more):
        assert main([str(each) for each in ("generate", tiny_copy, "--max-new-tokens", 3, *more)]) == 0
        return capsys.readouterr().out

    # "▁the" has the id that the model says first: other ids say other words, but it never asks what they are.
    fallback_tokenizer().save(str(tiny_copy.parent / "tokenizer.json"))
    first = json.loads(run(*options, "--json"))["tokens"][0]
    fallback_tokenizer(the=first).save(str(tiny_copy.parent / "tokenizer.json"))
    report = json.loads(run(*options, "--json"))
    assert report["tokens"][0] == first
    assert report["text"].startswith(" the")
    assert run(*options).startswith(" the")
    (tiny_copy.parent / "chat_template.jinja").write_text("{{ messages[0].content }}")  # the same tokens
    chat = json.loads(run(*options, "--chat", "--json"))
    assert (chat["tokens"], chat["text"]) == (report["tokens"], report["text"].removeprefix(" "))
