"""`python -m runtime_ext chat`, from a pipe in this process."""

import io
import json
import os
import re
import signal
import sys

import numpy as np
import pytest

from dualbinary import InputError
from runtime_ext.__main__ import main
from runtime_ext.chat.conversation import ContextFullError, Conversation, Turn
from runtime_ext.chat.terminal import Interrupts, message_of
from runtime_ext.decoder import Decoder
from runtime_ext.generate import generate
from runtime_ext.generation import Generation
from runtime_ext.sampling import Sampler
from runtime_ext.text import TextCodec
from tests.support import tiny_sessions as tiny

FEW = ("--max-new-tokens", "4")


@pytest.fixture
def chat(capsys, monkeypatch):
    """Run the command on lines of a pipe and return exit code, standard output and standard error."""

    def run(path, lines, *arguments):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        try:
            code = main(["chat", str(path), *arguments])
        except SystemExit as stop:  # argparse
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def growing_model(tiny_weights, tmp_path_factory):
    """The tiny Llama with a cache that grows."""
    return tiny.make_model(tiny_weights, tmp_path_factory.mktemp("growing"), share_buffer=False)


def objects(out):
    return [json.loads(line) for line in out.splitlines()]


def rendered(messages):
    return "".join(f"<{role}>{content}<end>" for role, content in messages) + "<assistant>"


def fresh_tokens(path, messages, count=4):
    """The tokens of the answer of a decoder that reads the whole conversation at once."""
    decoder, codec = Decoder.load(path), TextCodec(path.parent)
    prompt = codec.encode(rendered(messages))
    return list(generate(decoder, prompt, count, Sampler(), Generation([])))


@pytest.mark.parametrize("kind", ["tiny_model", "growing_model"])
def test_each_answer_is_that_of_the_whole_conversation_and_reads_only_what_is_new(chat, request, kind):
    path = request.getfixturevalue(kind)
    code, out, err = chat(path, ["Hi", "And?"], "--json", *FEW)
    assert code == 0, err
    first, second = objects(out)
    assert first["tokens"] == fresh_tokens(path, [("user", "Hi")])
    assert second["tokens"] == fresh_tokens(path, [("user", "Hi"), ("assistant", first["content"]), ("user", "And?")])
    assert (first["cached_tokens"], first["prompt_tokens"]) == (0, len("Hi") + 3)
    # All that the first turn read is kept: its prompt, and its answer where bytes that are no text did not get lost.
    assert second["cached_tokens"] >= first["prompt_tokens"]


def test_text_goes_to_standard_output_and_counts_to_standard_error(chat, tiny_model):
    code, out, err = chat(tiny_model, ["Hi", "", "So"], *FEW)
    assert code == 0
    assert len(out.splitlines()) >= 2
    assert err.count("prompt tokens read in") == 2
    assert re.search(r"\[4 tokens, \d+\.\d tokens/s; 5 of 5 prompt tokens read in \d\.\d\d s; length\]", err)


def test_commands_change_the_conversation(chat, tiny_model, tmp_path):
    lines = [
        "Hi",
        "Oh",
        "/undo",
        "Yes",
        "/system Be",
        "No",
        "/reset",
        "Hi",
        "/retry",
        f"/save {tmp_path / 'talk.json'}",
    ]
    code, out, err = chat(tiny_model, lines, "--json", "--max-new-tokens", "2")
    assert code == 0, err
    said = objects(out)
    answers = [each for each in said if each["role"] == "assistant"]
    tokens, texts = ([each[key] for each in answers] for key in ("tokens", "content"))
    notes = [each for each in said if each["role"] == "note"]
    hi = texts[0]
    assert tokens[2] == fresh_tokens(tiny_model, [("user", "Hi"), ("assistant", hi), ("user", "Yes")], 2)
    with_system = [("system", "Be"), ("user", "Hi"), ("assistant", hi), ("user", "Yes"), ("assistant", texts[2])]
    assert tokens[3] == fresh_tokens(tiny_model, [*with_system, ("user", "No")], 2)
    assert tokens[4] == tokens[5] == fresh_tokens(tiny_model, [("system", "Be"), ("user", "Hi")], 2)
    assert [each["command"] for each in notes] == ["/undo", "/system", "/reset", "/save"]
    assert notes[0]["content"] == "taken back: Oh"
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert [each["role"] for each in saved] == ["system", "user", "assistant"]
    assert saved[-1]["content"] == texts[5]


def test_save_writes_markdown_and_replaces_nothing(chat, tiny_model, tmp_path):
    file = tmp_path / "talk.md"
    code, _, err = chat(tiny_model, ["Hi", f"/save {file}", f"/save {file}"], *FEW)
    assert code == 2
    assert f"error: {file}: exists; choose another name" in err
    assert file.read_text().startswith("**user**\n\nHi\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/undue", "/undue: no such command; /help lists them, and // begins a message with a slash"),
        ("/save", "/save: name the file, as in /save talk.md"),
        ("/save ~nobody-here/talk.md", "~nobody-here/talk.md: there is no such user"),
        ('"unfinished', "begins as a JSON string and is none"),
        ("x" * tiny.CONTEXT_LENGTH, "leaves no room for an answer in 64; ask in fewer words"),
    ],
)
def test_wrong_lines_of_a_pipe_end_the_command(chat, tiny_model, line, message):
    code, out, err = chat(tiny_model, [line], *FEW)
    assert code == 2
    assert message in err
    assert not out


def test_bytes_that_are_no_text_end_the_command_with_one_line(tiny_model, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8"))
    assert main(["chat", str(tiny_model), *FEW]) == 2
    assert "error: a line is not UTF-8 text" in capsys.readouterr().err


def test_a_question_that_is_too_long_by_itself_is_told_a_way_that_helps(chat, tiny_model):
    assert "; ask in fewer words, or choose a larger --context" in chat(tiny_model, ["x" * 20], "--context", "16")[2]
    assert "; /undo takes back" in chat(tiny_model, ["x", "x" * 60], *FEW)[2]


class Template(TextCodec):
    """A codec with a chat template that renders every message, none of the system, or refuses those."""

    def __init__(self, directory, kind):
        super().__init__(directory)
        self._kind = kind

    def chat_text(self, messages):
        if self._kind == "refuses" and messages[0]["role"] == "system":
            raise InputError("System role not supported")
        return rendered((m["role"], m["content"]) for m in messages if self._kind == "all" or m["role"] != "system")


@pytest.mark.parametrize(
    ("kind", "message"), [("drops", "leaves system prompts out"), ("refuses", "System role not supported")]
)
def test_a_system_prompt_that_would_not_be_read_is_refused(tiny_model, kind, message):
    conversation = Conversation(Decoder.load(tiny_model, library=False), Template(tiny_model.parent, kind), 64, None)
    with pytest.raises(InputError, match=message):
        conversation.set_system("Be brief.")
    assert conversation.system == ""
    conversation.set_system("")
    conversation.codec = Template(tiny_model.parent, "all")
    conversation.set_system("Be brief.")
    assert conversation.system == "Be brief."


def test_a_json_string_of_a_pipe_is_never_a_command(chat, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = chat(tiny_model, map(json.dumps, ("/save t", "/exit", "//a")), "--json", "--max-new-tokens", "1")
    assert (code, len(objects(out))) == (0, 3), err
    assert not list(tmp_path.iterdir())
    code, out, _ = chat(tiny_model, [json.dumps("//a")], "--json", "--max-new-tokens", "1")
    assert objects(out)[0]["prompt_tokens"] == len("//a") + 3


def test_slashes_and_line_ends_get_into_messages(chat, tiny_model):
    _, out, _ = chat(tiny_model, ["//a", json.dumps("a\nb")], "--json", "--max-new-tokens", "1")
    first, second = objects(out)
    assert first["prompt_tokens"] == len("/a") + 3
    assert message_of('"a\\nb"') == "a\nb"
    assert second["prompt_tokens"] > first["prompt_tokens"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--context", "65"), "--context: expected at most the 64 of the model, got 65"),
        (("--draft", "x.onnx", "--speculate", "none"), "--speculate: expected no value with --draft"),
        (("--top-k", "3"), "--temperature: expected above 0 with --top-k, --top-p or --min-p"),
    ],
)
def test_wrong_options_are_named(chat, tiny_model, arguments, message):
    code, _, err = chat(tiny_model, [], *arguments)
    assert code == 2
    assert message in err


def test_a_model_without_a_template_says_so_before_the_first_question(chat, tiny_copy):
    tiny.write_json(tiny_copy.parent / "tokenizer_config.json", {"eos_token": tiny.END})
    code, _, err = chat(tiny_copy, [], *FEW)
    assert code == 2
    assert "the model has no chat template" in err


def test_a_full_context_is_said_and_undo_leads_on(tiny_model):
    conversation = Conversation(Decoder.load(tiny_model), TextCodec(tiny_model.parent), 32, None)

    def ask(text):
        conversation.messages.append({"role": "user", "content": text})
        turn = Turn([])
        list(conversation.answer(64, Sampler(), turn, lambda: False))
        return turn

    first = ask("Hi")
    assert len(first.tokens) == 32 - first.prompt_tokens
    with pytest.raises(ContextFullError, match=r"which leaves no room for an answer in 32"):
        ask("more")
    assert conversation.undo() == "more"
    assert conversation.undo() == "Hi"
    assert conversation.undo() is None
    assert ask("Hi").tokens == first.tokens


def test_an_answer_that_was_stopped_stays_as_far_as_it_got(tiny_model):
    conversation = Conversation(Decoder.load(tiny_model), TextCodec(tiny_model.parent), 64, None)
    conversation.messages.append({"role": "user", "content": "Hi"})
    turn, asked = Turn([]), iter([False, False, False, True])
    list(conversation.answer(20, Sampler(), turn, lambda: next(asked)))
    assert (len(turn.tokens), turn.finish_reason) == (3, "stopped")
    before = conversation.messages[-1]["content"]
    conversation.messages.append({"role": "user", "content": "So"})
    again = Turn([])
    list(conversation.answer(4, Sampler(), again, lambda: False))
    assert again.tokens == fresh_tokens(tiny_model, [("user", "Hi"), ("assistant", before), ("user", "So")])


TURNS = "{% if (m.role == 'user') != loop.index0 is even %}{{ raise_exception('roles have to alternate') }}{% endif %}"


@pytest.mark.parametrize(("line", "asked"), [("And?", "And?"), ("/retry", "Hi there")])
def test_a_question_that_was_stopped_before_its_answer_is_no_turn(chat, tiny_copy, monkeypatch, line, asked):
    template = tiny.CHAT_TEMPLATE.replace("%}<", f"%}}{TURNS}<", 1)
    tiny.write_json(tiny_copy.parent / "tokenizer_config.json", {"eos_token": tiny.END, "chat_template": template})
    step, presses = Decoder.step, [signal.SIGINT]

    def press(self, tokens):
        if presses:
            os.kill(os.getpid(), presses.pop())
        return step(self, tokens)

    monkeypatch.setattr(Decoder, "step", press)
    monkeypatch.setattr("runtime_ext.chat.conversation.PROMPT_CHUNK", 4)  # so that the first prompt has several
    code, out, err = chat(tiny_copy, ["Hi there", line], "--json", *FEW)
    assert code == 0, err
    stopped, answer = objects(out)
    assert (stopped["tokens"], stopped["finish_reason"]) == ([], "stopped")
    assert answer["tokens"] == fresh_tokens(tiny_copy, [("user", asked)])


def test_a_stopped_question_is_there_again_where_the_next_one_cannot_be_answered(tiny_model):
    conversation = Conversation(Decoder.load(tiny_model), TextCodec(tiny_model.parent), 32, None)
    conversation.ask("Hi")
    list(conversation.answer(4, Sampler(), Turn([]), lambda: True))
    conversation.ask("x" * 40)
    with pytest.raises(ContextFullError):
        list(conversation.answer(4, Sampler(), Turn([]), lambda: False))
    conversation.take_back()
    assert conversation.messages == [{"role": "user", "content": "Hi"}]
    list(conversation.answer(4, Sampler(), Turn([]), lambda: False))
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"]


def test_what_becomes_of_a_question_without_an_answer_is_said(chat, tiny_model, monkeypatch):
    monkeypatch.setattr(Interrupts, "asked", lambda self: True)
    code, _, err = chat(tiny_model, ["Hi"], *FEW)
    assert code == 0
    assert "stopped before the answer began; /retry answers the question" in err


def test_a_decoder_that_cannot_go_back_reads_again(tiny_model, monkeypatch):
    decoder = Decoder.load(tiny_model)

    def rewind(length):
        if length != decoder.length:
            raise InputError("layers of this model carry states, which cannot go back by a token")

    monkeypatch.setattr(decoder, "rewind", rewind)
    conversation = Conversation(decoder, TextCodec(tiny_model.parent), 64, None)
    conversation.messages.append({"role": "user", "content": "Hi"})
    list(conversation.answer(4, Sampler(), Turn([]), lambda: False))
    conversation.undo()
    conversation.messages.append({"role": "user", "content": "Ho"})
    turn = Turn([])
    list(conversation.answer(4, Sampler(), turn, lambda: False))
    assert turn.tokens == fresh_tokens(tiny_model, [("user", "Ho")])
    assert turn.cached_tokens == 0


def test_speculation_is_that_of_generate(chat, tiny_model):
    plain = chat(tiny_model, ["ababab"], "--json", *FEW)
    guessed = chat(tiny_model, ["ababab"], "--json", "--speculate", "none", *FEW)
    assert objects(plain[1])[0]["tokens"] == objects(guessed[1])[0]["tokens"]
    assert np.isfinite(objects(plain[1])[0]["decode_seconds"])
