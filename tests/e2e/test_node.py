"""The examples for Node.js, as a person runs them: the terminal chat, and transformers.js on its own folder."""

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from exporter.options import ExportOptions
from exporter.pipeline import export
from runtime_ext.text import TextCodec
from tests.support.javascript import COUNT, PROMPT, answers, continued, greedy, make_source, node, package

ROOT = Path(__file__).resolve().parents[2]
FORMS = {
    "default": {},
    "fp16": {"dtype": "fp16"},
    "fp16 cache": {"kv_cache": "fp16"},
    "matmulnbits": {"op": "matmulnbits", "levels": "even"},
    "dequantizelinear": {"op": "dequantizelinear", "levels": "even"},
}


@pytest.fixture(scope="module")
def chat() -> Path:
    return package("examples/node") / "chat.js"


@pytest.fixture(scope="module")
def pipeline() -> Path:
    return package("examples/transformersjs") / "generate.js"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A tiny model with a tokenizer and a chat template, by name."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = make_source(name, tmp_path_factory.mktemp("source") / name)
        return made[name]

    return get


def said(*command: object) -> tuple[int, str]:
    done = subprocess.run([node(), *map(str, command)], check=False, capture_output=True, text=True)
    return done.returncode, done.stderr.strip()


def by_form(cases):
    """Parameters of a test: a stock operator, which both hosts leave to ONNX Runtime, is slow but on one of them."""
    stock = {("llama", "matmulnbits"), ("llama", "dequantizelinear"), ("matmulnbits",)}
    return [pytest.param(*case, marks=pytest.mark.slow if case in stock else []) for case in cases]


@pytest.mark.parametrize("form", by_form((form,) for form in FORMS))
def test_the_terminal_continues_as_python_does(chat, source, tmp_path, form):
    path = export(source("llama"), tmp_path / "model.onnx", ExportOptions(planes=4, **FORMS[form])).path
    found = continued(chat, tmp_path, "--json")
    assert found["ids"] == greedy(path, PROMPT, COUNT)
    assert found["text"] == TextCodec(tmp_path).decode(found["ids"])


@pytest.mark.parametrize(
    ("name", "form"),
    by_form(
        [
            *(("llama", form) for form in FORMS),
            ("gpt2", "default"),
            ("gemma3_text", "default"),
            ("qwen3", "matmulnbits"),
        ]
    ),
)
def test_transformers_js_loads_its_folder_and_continues_as_python_does(pipeline, source, tmp_path, name, form):
    options = ExportOptions(planes=4, layout_for="transformersjs", **FORMS[form])
    path = export(source(name), tmp_path / "model.onnx", options).path
    found = continued(pipeline, tmp_path, "--json")
    assert found["ids"] == greedy(path, PROMPT, COUNT)


def test_the_pipeline_of_transformers_js_finds_the_chat_template(pipeline, source, tmp_path):
    path = export(source("llama"), tmp_path / "model.onnx", ExportOptions(layout_for="transformersjs")).path
    command = [node(), pipeline, tmp_path, "Hi", "--count", str(COUNT)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == answers(path, tmp_path, ["Hi"], COUNT)[0].strip()


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    export(source("llama"), folder / "model.onnx", ExportOptions(planes=4))
    return folder


def test_a_conversation_reads_its_turns_and_forgets_them(chat, folder):
    """Answers are those of the whole conversation read at once; Ctrl-C ends one; /reset begins anew."""
    expected = [answer.strip() for answer in answers(folder / "model.onnx", folder, ["Hi", "And?"], 5)]
    questions = "Hi\nAnd?\n/reset\nHi\n/exit\n"
    done = subprocess.run(
        [node(), chat, folder, "--count", "5"], check=True, capture_output=True, text=True, input=questions
    )
    said = [text.split("\n[")[0].strip() for text in done.stdout.split("> ")[1:]]
    assert said[:2] == expected
    assert said[2] == "forgotten"
    assert said[3] == expected[0]


def test_a_text_that_ends_within_a_character_is_given_to_the_end():
    """Bytes as tokens: "é" comes at its second byte, and what is left of "€" when the text is over."""
    program = f"""
        import {{ textStream }} from "{ROOT.as_uri()}/examples/node/lib/text.js";
        const toText = textStream({{ decode: (ids) => new TextDecoder().decode(Uint8Array.from(ids)) }});
        const pieces = [104, 0xc3, 0xa9, 0xe2, 0x82].map(toText);
        console.log(JSON.stringify([...pieces, toText(), toText()]));
    """
    command = [node(), "--input-type=module", "--eval", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == ["h", "", "é", "", "", "\N{REPLACEMENT CHARACTER}", ""]


def test_ctrl_c_ends_an_answer_and_not_the_chat(chat, folder):
    """In a terminal, where Ctrl-C is a key."""
    controller, terminal = pty.openpty()
    chatting = subprocess.Popen(
        [node(), chat, folder, "--count", "100000", "--temperature", "5"],
        stdin=terminal, stdout=terminal, stderr=terminal, close_fds=True,
    )  # fmt: skip
    os.close(terminal)
    try:
        read_until(controller, b"> ")
        os.write(controller, b"Hi\n")
        time.sleep(0.3)
        os.write(controller, b"\x03")
        # The tiny model ends by itself after some 100 tokens; in either case the chat is there for more.
        # What it says at random may have any character, but not these words.
        read_until(controller, b"tokens, first after")
        os.write(controller, b"/exit\n")
        assert chatting.wait(20) == 0
    finally:
        if chatting.poll() is None:
            chatting.send_signal(signal.SIGKILL)
        os.close(controller)


def read_until(controller: int, end: bytes) -> bytes:
    text = b""
    while end not in text:
        assert select.select([controller], [], [], 60)[0], text
        text += os.read(controller, 4096)
    return text


def test_a_continuation_ends_where_the_model_is_full(chat, folder):
    context = json.loads((folder / "genai_config.json").read_text())["model"]["context_length"]
    ids = [str(3 + place % 200) for place in range(context)]
    done = subprocess.run(
        [node(), chat, folder, "--ids", ",".join(ids[:-2]), "--count", "9"], check=True, capture_output=True, text=True
    )
    assert len(done.stdout.split(",")) == 2
    message = f"error: the prompt has {context} tokens and the model takes {context}; shorten it"
    assert said(chat, folder, "--ids", ",".join(ids)) == (2, message)


def test_what_is_wrong_is_said_in_a_sentence(chat, source, folder, tmp_path):
    assert said(chat) == (2, "error: one MODEL_FOLDER is expected, got 0; --help says more")
    assert said(chat, folder, "--count", "none") == (2, "error: --count takes whole numbers from 1 up, got 'none'")
    assert said(chat, folder, "--ids", "9999")[1] == "error: token 9999: the model has tokens 0 to 255"
    assert "no such folder" in said(chat, tmp_path / "nowhere")[1]
    assert "no genai_config.json" in said(chat, source("llama"))[1]

    damaged = Path(shutil.copytree(folder, tmp_path / "damaged"))
    (damaged / "model.onnx.data").unlink()
    code, error = said(chat, damaged, "--ids", "1")
    assert code == 2
    assert "its file of weights is missing" in error
    assert "\n" not in error
    (damaged / "model.onnx").unlink()
    assert "model.onnx: no such file" in said(chat, damaged)[1]
    (damaged / "genai_config.json").write_text("{")
    assert "genai_config.json is not JSON" in said(chat, damaged)[1]

    alone = tmp_path / "alone"
    export(source("llama"), alone / "model.onnx", ExportOptions(fallback="none"))
    assert "needs the custom-op library" in said(chat, alone)[1]
    rows = tmp_path / "rows"
    export(source("llama"), rows / "model.onnx", ExportOptions(kv_cache="int8"))
    assert "error: ONNX Runtime 1.32 or newer reads an int8 cache" in said(chat, rows, "--ids", "1")[1]
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["model"]["type"] = "Strange"
    (alone / "tokenizer.json").write_text(json.dumps(settings))
    assert said(chat, alone)[0] == 2
