"""The chat of the C++ example: text by the library of onnxruntime-genai, tokens as Python gives them."""

import contextlib
import json
import shutil
import signal
import subprocess
from pathlib import Path

import onnxruntime_genai as genai
import pytest
import transformers

from exporter.options import ExportOptions
from exporter.pipeline import export
from runtime_ext.decoder import Decoder
from runtime_ext.generate import Generation, generate
from runtime_ext.library import library_path
from runtime_ext.sampling import Sampler
from tests.support.tiny_models import make_model
from tests.support.tiny_tokenizers import write_tokenizer

GENAI = Path(genai.__file__).parent / "libonnxruntime-genai.so"
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
COUNT = 6
ATTEMPTS = 100
LINES = ('The "first" line \\ of all', "and another")


@pytest.fixture(scope="module", params=[True, False], ids=["shared", "growing"])
def model(request, tmp_path_factory) -> Path:
    """An export of a tiny Llama, and the same one whose cache grows."""
    work = tmp_path_factory.mktemp("chat")
    source = make_model("llama", work / "model")
    write_tokenizer(source, chat_template=TEMPLATE)
    path = work / "out" / "model.onnx"
    export(source, path, ExportOptions(), library=library_path())
    config = path.parent / "genai_config.json"
    values = json.loads(config.read_text())
    values["search"]["past_present_share_buffer"] = request.param
    config.write_text(json.dumps(values))
    return path


def chat(cpp_host, model, text: str, *options: object) -> subprocess.CompletedProcess[str]:
    command = [cpp_host, "--chat", model, library_path(), "--genai", GENAI, "--ids", *options]
    return subprocess.run(list(map(str, command)), input=text, check=False, capture_output=True, text=True)


def ids_of(stderr: str, what: str) -> list[list[int]]:
    return [list(map(int, line.split()[1:])) for line in stderr.splitlines() if line.startswith(what)]


def test_a_conversation_has_the_tokens_that_python_gives(cpp_host, model):
    first, second = LINES
    done = chat(
        cpp_host, model, f"{first}\n{second}\n/reset\n{first}\n", "--max-tokens", COUNT, "--system", "Be brief."
    )

    assert done.returncode == 0, done.stderr
    prompts, answers = ids_of(done.stderr, "prompt:"), ids_of(done.stderr, "answer:")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model.parent)
    decoder = Decoder.load(model)
    beginning = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": first}]
    assert prompts[0] == tokenizer.apply_chat_template(beginning, add_generation_prompt=True, return_dict=False)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer == list(generate(decoder, prompt, COUNT, Sampler(), Generation([])))
    # The second prompt goes on where the first answer ended, and nothing is left after /reset.
    assert prompts[1][: len(prompts[0])] == prompts[0]
    assert len(prompts[1]) > len(prompts[0])
    assert prompts[2] == prompts[0]
    written = done.stdout.splitlines()
    assert written[0] == tokenizer.decode(answers[0], skip_special_tokens=True).splitlines()[0]


def test_a_conversation_that_is_too_long_says_so_and_goes_on(cpp_host, model):
    done = chat(cpp_host, model, f"{LINES[0] * 30}\nx\n", "--context", 24, "--max-tokens", 2)
    assert done.returncode == 0, done.stderr
    assert "there is room for 24: /reset begins anew" in done.stderr
    assert len(ids_of(done.stderr, "answer:")) == 1


def test_an_interrupt_at_the_prompt_ends_the_program(cpp_host, model):
    command = [cpp_host, "--chat", model, library_path(), "--genai", GENAI, "--ids", "--max-tokens", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as host:
        assert host.stdin
        assert host.stderr
        host.stdin.write(b"x\n")
        host.stdin.flush()
        while not host.stderr.readline().startswith(b"answer:"):
            pass
        for _ in range(ATTEMPTS):  # the first may come while the answer is not quite over, and end that
            host.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert host.wait(timeout=0.1) == -signal.SIGINT
                return
        host.kill()
        pytest.fail("the program goes on")


def test_what_is_missing_is_named_with_the_way_out(cpp_host, model, tmp_path):
    missing = subprocess.run(
        [cpp_host, "--chat", model, "none", "--genai", "libmissing.so"], check=False, capture_output=True, text=True
    )
    assert missing.returncode == 1
    assert "libmissing.so" in missing.stderr
    assert "pass its path with --genai" in missing.stderr

    shutil.copytree(model.parent, tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer.json").unlink()
    bare = chat(cpp_host, tmp_path / "bare" / model.name, "")
    assert bare.returncode == 1
    assert bare.stderr.startswith("error: the tokenizer: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tomato", "1"], "--tomato: no such option"),
        (["--system"], "--system: expected a value behind it"),
        (["--max-tokens", "many"], "--max-tokens: expected a number, got 'many'"),
        (["--max-tokens", "0"], "--max-tokens: expected at least 1, got 0"),
    ],
)
def test_wrong_usage_says_what_is_wrong(cpp_host, arguments, message):
    done = subprocess.run(
        [cpp_host, "--chat", "out.onnx", "none", *arguments], check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("usage: cpp_host")
    assert message in done.stderr
