"""Tokenizer and chat template, with a tokenizer that has one token for each byte."""

import pytest

from dualbinary import InputError
from runtime_ext.text import TextCodec
from tests.support import tiny_sessions as tiny

TEXT = "naïve 🙂 text"


@pytest.fixture
def directory(tmp_path):
    tiny.make_tokenizer().save(str(tmp_path / "tokenizer.json"))
    tiny.write_json(tmp_path / "tokenizer_config.json", {"eos_token": {"content": tiny.END}})
    return tmp_path


def test_text_survives_the_way_there_and_back(directory):
    codec = TextCodec(directory)
    ids = codec.encode(TEXT)
    assert len(ids) == len(TEXT.encode())
    assert codec.decode(ids) == TEXT


def test_stored_truncation_and_padding_are_not_obeyed(tmp_path):
    tokenizer = tiny.make_tokenizer()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    codec = TextCodec(tmp_path)
    assert len(codec.encode("ab")) == 2
    assert codec.decode(codec.encode(TEXT)) == TEXT


def test_stream_yields_whole_characters_as_soon_as_they_are_known(directory):
    codec = TextCodec(directory)
    ids = codec.encode(TEXT)
    assert list(codec.stream(ids)) == list(TEXT)
    seen = []
    pieces = codec.stream(seen.append(token) or token for token in ids)
    assert next(pieces) == "n"
    assert seen == ids[:1]


def test_special_tokens_are_not_text(directory):
    codec = TextCodec(directory)
    assert "".join(codec.stream([*codec.encode("a"), tiny.BYTES, *codec.encode("b")])) == "ab"


@pytest.mark.parametrize("place", ["file", "string", "named"])
def test_chat_template_is_found_in_all_its_places(directory, place):
    settings: dict[str, object] = {"eos_token": {"content": tiny.END}}
    if place == "file":
        (directory / "chat_template.jinja").write_text(tiny.CHAT_TEMPLATE, encoding="utf-8")
    elif place == "string":
        settings["chat_template"] = tiny.CHAT_TEMPLATE
    else:
        other = {"name": "tools", "template": "wrong"}
        settings["chat_template"] = [other, {"name": "default", "template": tiny.CHAT_TEMPLATE}]
    tiny.write_json(directory / "tokenizer_config.json", settings)
    codec = TextCodec(directory)
    end, user, assistant = range(tiny.BYTES, tiny.BYTES + 3)
    assert codec.encode_chat("hi") == [user, *codec.encode("hi"), end, assistant]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{% for %}", "chat template failed"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "chat template failed"),
        ("{{ 1 / 0 }}", "division"),
    ],
)
def test_a_template_that_fails_or_reaches_out_is_refused(directory, template, message):
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        TextCodec(directory).encode_chat("hi")


def test_chat_without_a_template_is_refused(directory):
    with pytest.raises(InputError, match="no chat template; leave chat out"):
        TextCodec(directory).encode_chat("hi")


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_missing_or_damaged_tokenizer_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"tokenizer\.json: (no such file|not a tokenizer)"):
        TextCodec(tmp_path)
