"""`python -m calib eval`: figures of every kind of subject against plain PyTorch, and clear errors."""

import json
import math
import shutil
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from calib.__main__ import main
from calib.evaluation.subjects import open_subject
from dualbinary import InputError
from exporter.__main__ import main as export
from runtime_ext.__main__ import main as runtime
from tests.support.tiny_models import make_model
from tests.support.tiny_tokenizers import write_tokenizer

LENGTH = 24
WINDOWS = ["--windows", "3", "--length", str(LENGTH), "--device", "cpu"]
FIT = ["--stages", "init", "--init-method", "fit", "--group-size", "64", "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = make_model("llama", tmp_path_factory.mktemp("models") / "llama")
    write_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("checkpoint") / "out"
    assert main([str(model), str(out), *FIT, "--embedding-bits", "8", "--generate", "8", "--length", "32"]) == 0
    return out


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """The checkpoint as files of each form of logits."""
    found = {}
    for name, options in {"all": ["--logits", "all"], "few": [], "last": ["--verify-tokens", "0"]}.items():
        found[name] = tmp_path_factory.mktemp(name) / "model.onnx"
        assert export([str(checkpoint), str(found[name]), "--quiet", *options]) == 0
    return found


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Two texts of which the second has two files, and their windows by name."""
    directory = tmp_path_factory.mktemp("texts")
    random = np.random.default_rng(0)
    letters = [chr(code) for code in range(ord("!"), 127)]
    parts = {name: "".join(random.choice(letters, 60)) for name in ("one", "two", "more")}
    for name, part in parts.items():
        (directory / f"{name}.txt").write_text(part)
    words = [str(directory / "one.txt"), f"pair={directory / 'two.txt'},{directory / 'more.txt'}"]
    # The tokenizer of the tiny models gives the letters from "!" on the ids from 4 on.
    return words, {"one": _windows(parts["one"], 2), "pair": _windows(parts["two"] + parts["more"], 2)}


def _windows(text, count):
    """Each begins with the token that the tokenizer puts first."""
    tokens = [ord(letter) - ord("!") + 4 for letter in text]
    parts = torch.tensor(tokens[: count * (LENGTH - 1)]).view(count, LENGTH - 1)
    return torch.nn.functional.pad(parts, (1, 0), value=1)


def run_json(capsys, *arguments):
    assert main(["eval", *map(str, arguments), *WINDOWS, "--windows", "2", "--quiet", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def log_probabilities(directory, windows):
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(directory)(input_ids=windows).logits[:, :-1]
    return logits.double().log_softmax(-1)


def test_figures_of_a_directory_on_each_text_are_those_of_plain_pytorch(model, texts, tmp_path, capsys):
    other = make_model("mistral", tmp_path / "other")
    words, windows = texts
    out = tmp_path / "figures.json"
    found = run_json(capsys, model, other, "--text", *words, "--out", out)
    assert json.loads(out.read_text()) == found
    full, mine = found["models"]
    assert (full["kind"], mine["kind"], mine["name"]) == ("full precision", "directory", str(other))
    assert (full["ratio"], full["kl"], full["agreement"]) == (1, 0, 1)
    for place, (name, window) in enumerate(windows.items()):
        teacher, student = log_probabilities(model, window), log_probabilities(other, window)
        target = window[:, 1:, None]
        for figures, values in ((full, teacher), (mine, student)):
            nll = -values.gather(-1, target)[..., 0].mean(1)
            assert figures["texts"][place]["name"] == name
            assert figures["texts"][place]["nll"] == pytest.approx(
                nll.tolist(), rel=1e-5
            )  # float32 logits, sums of 128
            assert figures["texts"][place]["perplexity"] == pytest.approx(float(nll.mean().exp()), rel=1e-5)
        assert mine["texts"][place]["kl"] == pytest.approx(
            float((teacher.exp() * (teacher - student)).sum(-1).mean()), rel=1e-4
        )
        same = (teacher.argmax(-1) == student.argmax(-1)).double().mean()
        assert mine["texts"][place]["agreement"] == pytest.approx(float(same))
        ratio = mine["texts"][place]["perplexity"] / full["texts"][place]["perplexity"]
        assert mine["texts"][place]["ratio"] == pytest.approx(ratio)
    assert mine["perplexity"] == pytest.approx(math.exp(np.mean(mine["nll"])))  # texts of as many windows


def test_a_checkpoint_is_measured_with_its_own_weights(model, checkpoint, texts, capsys):
    words, windows = texts
    full, mine = run_json(capsys, model, checkpoint, "--text", words[0])["models"]
    assert mine["kind"] == "checkpoint"
    assert mine["kl"] > 0.01  # two planes without training
    teacher = log_probabilities(model, windows["one"])
    nll = -teacher.gather(-1, windows["one"][:, 1:, None])[..., 0].mean(1)
    assert full["nll"] == pytest.approx(nll.tolist(), rel=1e-5)
    assert mine["ratio"] == pytest.approx(mine["perplexity"] / full["perplexity"])


# An export computes with the checkpoint's weights; kernels of level 0 round activations to 15 bits or more and scales
# are stored in 16 bits in both, so 0.5 %, what a figure in print is good to, is far above what they differ by.
PERPLEXITY_TOLERANCE = 0.005


def test_exports_of_a_checkpoint_have_its_figures_in_onnx_runtime(model, checkpoint, exported, texts, capsys):
    words, _ = texts
    _, ours, *files = run_json(capsys, model, checkpoint, *exported.values(), "--text", *words)["models"]
    assert [one["name"] for one in files] == [str(path) for path in exported.values()]
    for one in files:
        assert one["kind"] == "onnx"
        for text, wanted in zip(one["texts"], ours["texts"], strict=True):
            assert text["perplexity"] == pytest.approx(wanted["perplexity"], rel=PERPLEXITY_TOLERANCE)
            assert text["ratio"] == pytest.approx(wanted["ratio"], rel=PERPLEXITY_TOLERANCE)
            assert text["kl"] == pytest.approx(wanted["kl"], rel=0.05)
    assert main(["eval", str(model), str(exported["last"]), "--text", words[0], *WINDOWS, "--windows", "1"]) == 0
    printed = capsys.readouterr()
    assert "--logits all" in printed.err  # what to do where every token is a run
    assert str(exported["last"]) in printed.out


def test_the_runtime_alone_says_the_same_perplexity(model, exported, texts, capsys):
    words, _ = texts
    wanted = run_json(capsys, model, exported["few"], "--text", *words)["models"][1]
    arguments = ["--text", *words, *WINDOWS[:-2], "--windows", "2", "--json"]
    assert runtime(["eval", str(exported["few"]), *arguments]) == 0
    (found,) = json.loads(capsys.readouterr().out)["models"]
    assert found["nll"] == pytest.approx(wanted["nll"], rel=1e-6)  # the same logits, softmax by NumPy and by PyTorch
    assert [text["name"] for text in found["texts"]] == ["one", "pair"]
    assert found["kl"] is None
    assert runtime(["eval", str(exported["few"]), *arguments[:-1]]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["text", "model", "perplexity"]


def test_people_get_a_table_with_a_row_for_each_model_and_text(model, checkpoint, texts, capsys):
    assert main(["eval", str(model), str(checkpoint), "--text", *texts[0], *WINDOWS, "--windows", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 3 * 2
    assert lines[-2].startswith("mean of 2")
    assert lines[-1].split()[0] == str(checkpoint)


def renamed(tokenizer):
    """A tokenizer that counts letters from the other end."""
    value = json.loads(tokenizer.read_text())
    vocabulary = value["model"]["vocab"]
    last = max(vocabulary.values())
    value["model"]["vocab"] = {token: id_ if id_ < 4 else last + 4 - id_ for token, id_ in vocabulary.items()}
    tokenizer.write_text(json.dumps(value))


def test_what_cannot_be_measured_is_one_clear_error(model, exported, texts, tmp_path, capsys):
    words, _ = texts
    other = shutil.copytree(model, tmp_path / "other")
    renamed(other / "tokenizer.json")
    wide = shutil.copytree(model, tmp_path / "wide")
    wider = AutoModelForCausalLM.from_pretrained(model)
    wider.resize_token_embeddings(260)
    wider.save_pretrained(wide)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no model")
    text = ["--text", words[0]]
    cases = [
        ([], "nothing to measure"),
        ([str(tmp_path / "missing"), *text], "no such checkpoint, model directory or .onnx file"),
        ([str(tmp_path / "empty"), *text], "has no config.json"),
        ([str(tmp_path / "notes.txt"), *text], "ends in .onnx"),
        ([str(other), *text], "its tokenizer makes other tokens of one"),
        ([str(wide), *text], "gives logits of 260 tokens, the full-precision model of 256"),
        ([*text, "--windows", "9"], "has 60 tokens, expected 9 windows of 23; lower --windows or give more"),
        ([*text, "--out", str(tmp_path / "no" / "such.json")], "its directory does not exist"),
    ]
    for arguments, message in cases:
        assert main(["eval", *WINDOWS, "--windows", "2", str(model), *arguments]) == 2, arguments
        assert message in capsys.readouterr().err
    damaged = shutil.copytree(exported["all"].parent, tmp_path / "damaged") / "model.onnx"
    damaged.write_bytes(b"no model")
    with pytest.raises(SystemExit) as ended:  # with the code of the child, which has said why
        main(["eval", str(model), str(damaged), *text, *WINDOWS, "--windows", "1"])
    assert ended.value.code == 2


def test_the_folder_of_an_export_is_refused_before_any_work(tmp_path):
    for name in ("config.json", "model.onnx"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=r"the folder of an exported model; give its file, .*model\.onnx"):
        open_subject(tmp_path)


QUESTIONS = [("Aman", ["walks", "is"], 0), ("Itrains", ["inSpain", "again"], 1), ("Theboy", ["runs", "sat", "eats"], 2)]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    pytest.importorskip("lm_eval", reason="needs pip install 'dualbinary[tasks]'")
    directory = tmp_path_factory.mktemp("tasks")
    fields = ("question", "endings", "label")
    lines = [json.dumps(dict(zip(fields, question, strict=True))) for question in QUESTIONS]
    (directory / "questions.jsonl").write_text("\n".join(lines))
    data = {"data_files": {"test": str(directory / "questions.jsonl")}, "cache_dir": str(directory / "cache")}
    task = {"task": "endings", "dataset_path": "json", "dataset_kwargs": data, "test_split": "test"}
    task |= {"output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "{{endings}}"}
    task |= {"doc_to_target": "{{label}}", "target_delimiter": "", "metric_list": [{"metric": "acc"}]}
    (directory / "endings.yaml").write_text(json.dumps(task))
    return directory


def accuracy(directory):
    """The share of questions whose right ending is the most likely one of plain PyTorch."""
    right = 0
    for question, endings, label in QUESTIONS:
        scores = []
        for ending in endings:
            tokens = torch.tensor([[1, *(ord(letter) - ord("!") + 4 for letter in question + ending)]])  # BOS first
            values = log_probabilities(directory, tokens)[0].gather(-1, tokens[0, 1:, None])
            scores.append(float(values[-len(ending) :].sum()))
        right += scores.index(max(scores)) == label
    return right / len(QUESTIONS)


def test_tasks_are_answered_by_every_kind_of_subject(model, checkpoint, exported, tasks, tmp_path, capsys):
    other = make_model("mistral", tmp_path / "other")
    write_tokenizer(other)
    subjects = [str(path) for path in (model, checkpoint, exported["all"], other)]
    arguments = ["--tasks", "endings", "--tasks-dir", str(tasks), "--device", "cpu", "--quiet"]
    assert main(["eval", *subjects, *arguments, "--json"]) == 0
    full, ours, file, another = (one["tasks"][0] for one in json.loads(capsys.readouterr().out)["models"])
    assert (full["value"], another["value"]) == (accuracy(model), accuracy(other))
    assert file == ours  # the same weights: no two endings are as close as rounding
    assert (full["task"], full["metric"], full["count"], full["shots"]) == ("endings", "acc", len(QUESTIONS), 0)
    assert main(["eval", str(model), *arguments, "--limit", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[-2:] == ["2", "0"]


def test_without_the_harness_the_extra_is_named_before_any_work(model, monkeypatch, capsys):
    for name in ("lm_eval", "lm_eval.tasks"):  # which another test may have imported
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["eval", str(model), "--tasks", "piqa", "--device", "cpu"]) == 2
    assert "pip install 'dualbinary[tasks]'" in capsys.readouterr().err


@pytest.mark.parametrize("command", [main, runtime])
def test_a_task_whose_file_is_not_there_is_named_before_any_work(model, exported, texts, command, monkeypatch, capsys):
    for measured in ("calib.evaluation.command.evaluate", "runtime_ext.evaluation.command.window_nll"):
        monkeypatch.setattr(measured, lambda *_, **__: pytest.fail("texts were measured first"))
    subject = ["eval", str(model), "--device", "cpu"] if command is main else ["eval", str(exported["all"])]
    arguments = ["--text", texts[0][0], "--windows", "1", "--length", str(LENGTH), "--tasks", "piqa=missing.jsonl"]
    assert command([*subject, *arguments]) == 2
    assert capsys.readouterr().err == "error: --tasks piqa=missing.jsonl: missing.jsonl: no such file\n"
