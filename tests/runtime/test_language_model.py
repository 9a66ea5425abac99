"""Exported models in lm-evaluation-harness: scores by hand from logits, answers of tasks, and clear errors."""

import json
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dualbinary import InputError
from runtime_ext.__main__ import main
from runtime_ext.decoder import Decoder
from tests.support import tiny_sessions as tiny
from tests.support.sessions import logits

pytest.importorskip("lm_eval", reason="needs pip install 'dualbinary[tasks]'")
from lm_eval.api.registry import get_model

from runtime_ext.evaluation import harness as command
from runtime_ext.evaluation.language_model import OnnxLanguageModel

# Float32 logits of two layers, sums of at most 96 terms, of some units each (tests/runtime/test_decoder.py); a score
# adds a dozen of them.
TOLERANCE = 1e-3


def requests(*pairs) -> Any:
    """What the harness hands to a model: an object with the arguments of each request."""
    return [SimpleNamespace(args=pair) for pair in pairs]


@pytest.fixture(scope="module")
def model(tiny_model):
    return OnnxLanguageModel(tiny_model, library=False)


def by_hand(path, tokens, count):
    """Log P of the last `count` tokens, from one run over all of them."""
    rows = logits(path, np.array([tokens]), library=False)[0].astype(np.float64)
    values = rows - np.log(np.exp(rows).sum(1, keepdims=True))
    places = range(len(tokens) - count - 1, len(tokens) - 1)
    greedy = all(int(rows[place].argmax()) == tokens[place + 1] for place in places)
    return sum(values[place, tokens[place + 1]] for place in places), greedy


# The tiny model's most likely letter after "A man walks" is "<".
PAIRS = [
    ("A man walks", "<"),
    ("A man walks", " home"),
    ("A man", " walks home"),
    ("A man walks", " a dog"),
    ("", "Once"),
    ("Two ", "words"),
]


def tokens_of(text):
    letters = tiny.make_tokenizer()
    return letters.encode(text, add_special_tokens=False).ids


def test_scores_are_sums_of_log_probabilities_in_the_order_of_the_requests(model, tiny_model):
    found = model.loglikelihood(requests(*PAIRS), disable_tqdm=True)
    for (context, continuation), (score, greedy) in zip(PAIRS, found, strict=True):
        tokens = tokens_of(context + continuation) if context else [tiny.BYTES, *tokens_of(continuation)]
        moved = len(context) - len(context.rstrip())  # a blank at the end of a context belongs to what follows
        wanted, likely = by_hand(tiny_model, tokens, len(continuation) + moved)
        assert score == pytest.approx(wanted, abs=TOLERANCE)
        assert greedy == likely
    assert found[0][1]


def test_endings_of_one_question_read_it_once(model, monkeypatch):
    fed = []
    step, each = Decoder.step, Decoder.step_each
    monkeypatch.setattr(Decoder, "step", lambda self, tokens: fed.append(len(tokens)) or step(self, tokens))
    monkeypatch.setattr(Decoder, "step_each", lambda self, tokens: fed.append(len(tokens)) or each(self, tokens))
    question = "The boy runs over the"
    model.loglikelihood(requests(*[(question, ending) for ending in (" hill", " mill", " road")]), disable_tqdm=True)
    assert sum(fed) == len(question) - 1 + 3 * len(" hill")  # the last token of a question, and its ending but the last


def test_a_model_that_cannot_go_back_reads_all_again(tiny_model, model, monkeypatch):
    wanted = model.loglikelihood(requests(*PAIRS), disable_tqdm=True)

    def refuse(self, length):
        raise InputError("layers of this model carry states")

    monkeypatch.setattr(Decoder, "rewind", refuse)
    found = OnnxLanguageModel(tiny_model, library=False).loglikelihood(requests(*PAIRS), disable_tqdm=True)
    assert found == [(pytest.approx(score, abs=TOLERANCE), greedy) for score, greedy in wanted]


def test_long_texts_are_scored_in_windows_of_the_context(tiny_model):
    model = OnnxLanguageModel(tiny_model, library=False, max_length=8)
    text = "It rains in Spain"
    (found,) = model.loglikelihood_rolling(requests((text,)), disable_tqdm=True)
    tokens = [tiny.BYTES, *tokens_of(text)]
    # Windows of 8 inputs: the first predicts 8 tokens, the others 8 more each, with one token before them.
    parts = [by_hand(tiny_model, tokens[0:9], 8), by_hand(tiny_model, tokens[8:17], 8)]
    parts.append(by_hand(tiny_model, tokens[9:18], 1))
    assert found == pytest.approx(sum(score for score, _ in parts), abs=TOLERANCE)


def test_prompts_that_are_too_long_lose_their_beginning(tiny_model):
    model = OnnxLanguageModel(tiny_model, library=False, max_length=8)
    ((score, _),) = model.loglikelihood(requests(("A man walks", " home")), disable_tqdm=True)
    wanted, _ = by_hand(tiny_model, tokens_of("A man walks home")[-9:], 5)
    assert score == pytest.approx(wanted, abs=TOLERANCE)
    with pytest.raises(InputError, match="longer than the model's context, 8"):
        model.loglikelihood(requests(("A", " man walks home")), disable_tqdm=True)


def test_answers_end_at_stop_sequences_and_limits(model):
    settings = {"until": [], "max_gen_toks": 12, "do_sample": False}
    (whole,) = model.generate_until(requests(("A man walks", settings)), disable_tqdm=True)
    assert whole
    stop = whole[2:4]
    (cut,) = model.generate_until(requests(("A man walks", {**settings, "until": [stop]})), disable_tqdm=True)
    assert cut == whole.split(stop)[0]
    draws = [
        model.generate_until(
            requests(("A man walks", {**settings, "do_sample": True, "temperature": 1.5})), disable_tqdm=True
        )
        for _ in range(2)
    ]
    assert draws[0] == draws[1]  # a seed of its own
    (from_nothing,) = model.generate_until(requests(("", settings)), disable_tqdm=True)
    assert isinstance(from_nothing, str)
    with pytest.raises(InputError, match="leaves no room"):
        model.generate_until(requests(("A", {**settings, "max_gen_toks": 64})), disable_tqdm=True)


def test_conversations_have_the_models_chat_format(model):
    messages = [{"role": "user", "content": "Hi"}]
    assert model.apply_chat_template(messages) == "<user>Hi<end><assistant>"
    with pytest.raises(InputError, match="begins the answer itself"):
        model.apply_chat_template(messages, add_generation_prompt=False)
    assert model.tokenizer_name


QUESTIONS = [
    ("A man walks", [" home", " his dog"], 0),
    ("The boy runs", [" far", " over the hill"], 1),
    ("It rains", [" in Spain", " again", " a lot"], 2),
]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with a task of three questions, and a file with two others of them."""
    directory = tmp_path_factory.mktemp("tasks")
    _write(directory / "questions.jsonl", QUESTIONS)
    _write(directory / "others.jsonl", QUESTIONS[:2])
    task = {
        "task": "endings",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"validation": str(directory / "questions.jsonl")}, "cache_dir": str(directory / "cache")
        },
        "validation_split": "validation",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{endings}}",
        "doc_to_target": "{{label}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }  # fmt: skip
    (directory / "endings.yaml").write_text(json.dumps(task))
    return directory


def _write(path, questions):
    lines = [
        json.dumps({"question": question, "endings": endings, "label": label}) for question, endings, label in questions
    ]
    path.write_text("\n".join(lines))


def known_answers(path, questions):
    """Accuracy by log-probability, and by log-probability for each character, computed by hand."""
    right = np.zeros(2)
    for question, endings, label in questions:
        scores = [by_hand(path, tokens_of(question + ending), len(ending))[0] for ending in endings]
        lengths = [len(ending) for ending in endings]
        right += [np.argmax(scores) == label, np.argmax(np.divide(scores, lengths)) == label]
    return dict(zip(("acc", "acc_norm"), right / len(questions), strict=True))


def test_a_local_task_has_the_answers_computed_by_hand(tiny_model, tasks, capsys):
    arguments = ["eval", str(tiny_model), "--no-library", "--tasks-dir", str(tasks), "--json"]
    for word, questions in (("endings", QUESTIONS), (f"endings={tasks / 'others.jsonl'}", QUESTIONS[:2])):
        assert main([*arguments, "--tasks", word]) == 0
        (found,) = json.loads(capsys.readouterr().out)["models"]
        assert {one["metric"]: one["value"] for one in found["tasks"]} == known_answers(tiny_model, questions)
        assert {(one["task"], one["count"], one["shots"]) for one in found["tasks"]} == {("endings", len(questions), 0)}
    assert main([*arguments[:-1], "--tasks", "endings", "--limit", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["task", "model", "metric", "value", "questions", "shots"]


def test_what_names_no_task_is_one_clear_error(tiny_model, tasks, capsys):
    cases = [
        (f"endings={tasks / 'none.jsonl'}", "no such file"),
        (f"endings={tasks / 'endings.yaml'}", "of no known kind; expected .jsonl"),
        ("endings", "--tasks-dir none: not a directory"),
    ]
    for word, message in cases:
        directory = "none" if "not a directory" in message else str(tasks)
        assert main(["eval", str(tiny_model), "--no-library", "--tasks-dir", directory, "--tasks", word]) == 2
        assert message in capsys.readouterr().err
    (tasks / "broken.jsonl").write_text("no questions")
    broken = f"endings={tasks / 'broken.jsonl'}"
    assert main(["eval", str(tiny_model), "--no-library", "--tasks-dir", str(tasks), "--tasks", broken]) == 2
    assert "its data cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "own",
    [True, pytest.param(False, marks=pytest.mark.slow)],  # the harness reads thousands of files to know its own tasks
)
def test_without_the_harness_the_extra_is_named(tiny_model, tasks, monkeypatch, capsys, own):
    monkeypatch.setitem(sys.modules, "runtime_ext.evaluation.language_model", None)
    words = ["--tasks", "endings", "--tasks-dir", str(tasks)] if own else ["--tasks", "piqa"]
    assert main(["eval", str(tiny_model), "--no-library", *words]) == 2
    assert "pip install 'dualbinary[tasks]'" in capsys.readouterr().err


def test_the_harness_own_command_knows_the_model(tiny_model, model, monkeypatch):
    found = []

    def cli_evaluate():
        own: Any = get_model("dualbinary").create_from_arg_string(f"path={tiny_model},library=False", {"batch_size": 1})
        found.append(own.loglikelihood(requests(*PAIRS), disable_tqdm=True))

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", cli_evaluate)
    assert command.main() == 0
    assert found == [model.loglikelihood(requests(*PAIRS), disable_tqdm=True)]


def test_its_errors_are_one_line(monkeypatch, capsys):
    def cli_evaluate():
        get_model("dualbinary").create_from_arg_string("path=none/model.onnx")

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", cli_evaluate)
    assert command.main() == 2
    assert "none/model.onnx: no such file" in capsys.readouterr().err
