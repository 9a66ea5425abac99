"""`python -m runtime_ext generate | bench | info` on a tiny model."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import runtime_ext
from dualbinary import DualBinaryError
from runtime_ext.__main__ import main
from runtime_ext.generate_all import read_prompts
from tests.support import tiny_sessions as tiny

PROMPT = "Hello"
PROMPT_TOKENS = len(PROMPT)  # the tokenizer of the tiny model has one token for each byte


@pytest.fixture
def run(capsys):
    """Run a command in this process and return exit code, standard output and standard error."""

    def run(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def generate_json(run, path, *arguments):
    code, out, err = run("generate", path, "--prompt", PROMPT, "--json", *arguments)
    assert code == 0, err
    return json.loads(out)


def test_generate_streams_text_and_ends_with_a_line_of_speeds(run, tiny_model):
    code, out, err = run("generate", tiny_model, "--prompt", PROMPT, "--max-new-tokens", 6)
    assert code == 0
    assert out.endswith("\n")
    assert f"[{PROMPT_TOKENS} prompt tokens in" in err
    assert "6 new" in err
    assert "length]" in err


def test_generate_json_is_one_object_with_the_text_of_its_tokens(run, tiny_model):
    report = generate_json(run, tiny_model, "--max-new-tokens", 6)
    assert report["prompt_tokens"] == PROMPT_TOKENS
    assert len(report["tokens"]) == 6
    assert report["finish_reason"] == "length"
    assert report["text"] == tiny.make_tokenizer().decode(report["tokens"])


def test_generate_ends_before_a_stop_string(run, tiny_model, tmp_path):
    whole = generate_json(run, tiny_model, "--max-new-tokens", 12)["text"]
    stop = whole[5:7]
    expected = whole[: whole.index(stop)]
    report = generate_json(run, tiny_model, "--max-new-tokens", 12, "--stop", "not there", "--stop", stop)
    assert (report["text"], report["finish_reason"]) == (expected, "stop")
    assert len(report["tokens"]) < 12
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"{PROMPT}\n{PROMPT}\n")
    code, out, err = run("generate", tiny_model, "--prompts", prompts, "--max-new-tokens", 12, "--stop", stop, "--json")
    assert code == 0, err
    answers = [json.loads(line) for line in out.splitlines()]
    assert [(each["text"], each["finish_reason"]) for each in answers] == [(expected, "stop")] * 2


def test_generate_stops_at_the_first_end_token_and_leaves_it_out(run, tiny_copy):
    tokens = generate_json(run, tiny_copy, "--max-new-tokens", 6)["tokens"]
    end = tokens[3]
    tiny.write_json(tiny_copy.parent / "generation_config.json", {"eos_token_id": [end]})
    report = generate_json(run, tiny_copy, "--max-new-tokens", 6)
    assert report["tokens"] == tokens[: tokens.index(end)]
    assert report["finish_reason"] == "stop"


def test_generate_stops_where_the_context_is_full(run, tiny_model):
    report = generate_json(run, tiny_model, "--max-new-tokens", 1000)
    assert len(report["tokens"]) == tiny.CONTEXT_LENGTH - PROMPT_TOKENS
    assert report["finish_reason"] == "length"


def test_generate_chat_wraps_the_prompt_in_the_template(run, tiny_model):
    report = generate_json(run, tiny_model, "--chat", "--max-new-tokens", 1)
    assert report["prompt_tokens"] == PROMPT_TOKENS + 3  # <user> ... <end> <assistant>


def test_generate_with_a_seed_is_repeatable(run, tiny_model):
    options = ("--temperature", 2, "--top-k", 50, "--top-p", 0.95, "--max-new-tokens", 20)
    first, again, other = (generate_json(run, tiny_model, *options, "--seed", seed)["tokens"] for seed in (1, 1, 2))
    assert first == again != other


def test_one_thread_gives_the_same_tokens(run, tiny_model):
    both = [generate_json(run, tiny_model, "--threads", threads)["tokens"] for threads in (0, 1)]
    assert both[0] == both[1]


def test_no_library_never_touches_the_library(run, tiny_model, monkeypatch):
    def refuse(options):
        raise DualBinaryError("the library is not there")

    monkeypatch.setattr(runtime_ext, "register", refuse)
    assert run("generate", tiny_model, "--prompt", PROMPT)[0] == 1
    assert run("generate", tiny_model, "--prompt", PROMPT, "--no-library")[0] == 0


def test_a_device_needs_neither_torch_nor_onnx(tiny_model):
    absent = ("onnx", "onnx_ir", "safetensors", "torch", "transformers")
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({absent})); "
        "from runtime_ext.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "generate", str(tiny_model), "--prompt", PROMPT, "--chat"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_bench_reports_every_number(run, tiny_model):
    options = ("--prompt-length", 8, "--tokens", 4, "--repeats", 2, "--threads", 1)
    code, out, _ = run("bench", tiny_model, *options, "--json")
    assert code == 0
    report = json.loads(out)
    assert (report["prompt_length"], report["tokens"], report["threads"]) == (8, 4, 1)
    for name in ("load_seconds", "prompt_tokens_per_second", "decode_tokens_per_second"):
        assert report[name] > 0
    code, out, _ = run("bench", tiny_model, *options)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["load", "prompt", "decode"]


def test_info_describes_the_library_and_the_model(run, tiny_copy):
    formats = {"4 planes, G=32, even levels, zero 8, float16 scales": {"layers": 3}}
    report = {"totals": {"bits_per_weight": 2.5}, "formats": formats}
    tiny.write_json(tiny_copy.parent / "export_report.json", report)
    code, out, _ = run("info", tiny_copy, "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["library"] == json.loads(json.dumps(runtime_ext.describe()))
    model = facts["model"]
    assert set(model["files"]) == {"model.onnx", "model.onnx.data"}
    assert model["context_length"] == tiny.CONTEXT_LENGTH
    assert model["export"] == {"bits_per_weight": 2.5}
    assert model["formats"] == formats
    assert "past_key_values.0.key" in model["inputs"]
    code, out, _ = run("info", tiny_copy)
    assert code == 0
    assert "past_key_values.0.key" in out
    assert "4 planes, G=32, even levels, zero 8, float16 scales\n" in out


def test_info_names_the_instruction_sets_that_can_be_forced(run):
    code, out, _ = run("info", "--isas")
    assert code == 0
    assert "scalar" in out.split()


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("generate", ("--prompt", ""), "the prompt is empty"),
        ("generate", ("--prompt", "x" * tiny.CONTEXT_LENGTH), f"context only {tiny.CONTEXT_LENGTH}"),
        ("generate", ("--prompt", "x", "--max-new-tokens", 0), "--max-new-tokens: expected at least 1, got 0"),
        (
            "generate",
            ("--prompt", "x", "--top-p", 0.5),
            "--temperature: expected above 0 with --top-k, --top-p or --min-p",
        ),
        ("generate", ("--prompt", "x", "--threads", -1), "--threads: expected 0 to 4096, got -1"),
        ("generate", ("--prompt", "x", "--temperature", 1, "--seed", -1), "--seed: expected at least 0, got -1"),
        ("generate", ("--prompt", "caf\udce9"), "the prompt is not valid UTF-8 at character 3"),
        ("generate", (), "--prompt: expected one of --prompt and --prompts, got neither"),
        ("generate", ("--prompt", "x", "--prompts", "y"), "--prompt: expected one of --prompt and --prompts, got both"),
        ("generate", ("--prompt", "x", "--stop", ""), '--stop: expected a text of a character or more, got ""'),
        ("generate", ("--prompts", "y", "--slots", 0), "--slots: expected at least 1, got 0"),
        ("bench", ("--tokens", 0), "--tokens: expected at least 1, got 0"),
        ("bench", ("--prompt-length", tiny.CONTEXT_LENGTH), f"context of {tiny.CONTEXT_LENGTH}"),
    ],
)
def test_wrong_options_exit_2_with_one_line(run, tiny_model, command, options, message):
    code, out, err = run(command, tiny_model, *options)
    assert code == 2
    assert out == ""
    assert message in err.splitlines()[-1]


@pytest.mark.parametrize("options", [(), ("--temperature", 0.8, "--top-k", 5), ("--json",)])
def test_logits_that_are_not_finite_exit_1_with_one_line(run, tiny_copy, options):
    model = onnx.load(tiny_copy)
    norm = next(value for value in model.graph.initializer if value.name == "model.norm.weight")
    norm.CopyFrom(numpy_helper.from_array(np.full(norm.dims, np.nan, np.float32), norm.name))
    onnx.save(model, tiny_copy)
    code, out, err = run("generate", tiny_copy, "--prompt", "x", *options)
    assert (code, out) == (1, "")
    assert err.startswith("error: the logits are not finite")
    assert len(err.splitlines()) == 1


def test_an_id_beyond_the_table_exits_2_with_one_line(run, tiny_copy):
    tokenizer = tiny.make_tokenizer()
    tokenizer.add_special_tokens(["<more>"])
    tokenizer.save(str(tiny_copy.parent / "tokenizer.json"))
    code, out, err = run("generate", tiny_copy, "--prompt", "x<more>", "--json")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: token id {tokenizer.token_to_id('<more>')}: expected 0 to ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["generate", "bench", "info"])
def test_a_missing_model_exits_2_with_one_line(run, tmp_path, command):
    options = ("--prompt", "x") if command == "generate" else ()
    code, out, err = run(command, tmp_path / "out.onnx", *options)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


def test_a_missing_tokenizer_exits_2_and_says_where_it_belongs(run, tiny_copy):
    (tiny_copy.parent / "tokenizer.json").unlink()
    code, _, err = run("generate", tiny_copy, "--prompt", "x")
    assert code == 2
    assert "tokenizer.json: no such file; copy the tokenizer" in err


def test_generate_answers_a_file_of_prompts_in_order_as_each_alone(run, tiny_model, tmp_path):
    texts = ["Hello", 'a "quoted" line\nand another', "third"]
    file = tmp_path / "prompts.txt"
    file.write_text(f"{texts[0]}\n\n{json.dumps(texts[1])}\n{texts[2]}", encoding="utf-8")
    options = ("--temperature", 1, "--seed", 3, "--max-new-tokens", 6)
    code, out, err = run("generate", tiny_model, "--prompts", file, "--slots", 2, *options, "--json")
    assert code == 0
    assert "3 prompts; 18 new" in err
    reports = [json.loads(line) for line in out.splitlines()]
    alone = [json.loads(run("generate", tiny_model, "--prompt", text, *options, "--json")[1]) for text in texts]
    assert [report["tokens"] for report in reports] == [report["tokens"] for report in alone]
    code, out, _ = run("generate", tiny_model, "--prompts", file, *options)
    assert code == 0
    (tmp_path / "answers.txt").write_text(out, encoding="utf-8")
    assert read_prompts(tmp_path / "answers.txt") == [report["text"] for report in reports]


def test_the_mark_that_editors_put_before_a_text_is_no_prompt(tmp_path):
    (tmp_path / "prompts.txt").write_bytes(b"\xef\xbb\xbf" + json.dumps("one\ntwo").encode() + b"\r\nthree\r\n")
    assert read_prompts(tmp_path / "prompts.txt") == ["one\ntwo", "three"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n\n", "expected a prompt on a line, got none"),
        (b'fine\n"open', 'line 2: a line that begins with " is a JSON string'),
        (b"\xff", "not UTF-8 text"),
        (None, "No such file"),
    ],
)
def test_a_damaged_file_of_prompts_exits_2_with_one_line(run, tiny_model, tmp_path, content, message):
    if content is not None:
        (tmp_path / "prompts.txt").write_bytes(content)
    code, out, err = run("generate", tiny_model, "--prompts", tmp_path / "prompts.txt")
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
