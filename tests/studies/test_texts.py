"""Texts to measure on, and HellaSwag's questions from lines."""

import hashlib
import json

import pytest

from dualbinary import InputError
from studies import hellaswag, texts

LINES = """\
Clean and jerk: A lady walks to a barbell. She bends down. the lady
3
swings and lands in her arms.
pulls the barbell forward.
pulls a rope.
stands and lifts the weight.
Baking: Mix it: flour and eggs.
0
Stir.
Sit.
Run.
Sleep.
"""


def test_questions_have_the_fields_of_the_data_set():
    first, second = hellaswag.questions(LINES)
    assert first["activity_label"] == "Clean and jerk"
    assert (first["ctx_a"], first["ctx_b"]) == ("A lady walks to a barbell. She bends down.", "the lady")
    assert (first["label"], first["endings"][3]) == ("3", "stands and lifts the weight.")
    assert (second["activity_label"], second["ctx_a"], second["ctx_b"]) == ("Baking", "Mix it: flour and eggs.", "")


@pytest.mark.parametrize("damaged", [LINES + "more", LINES.replace("\n3\n", "\n4\n"), LINES.replace("jerk:", "jerk")])
def test_lines_that_are_no_questions_are_refused(damaged):
    with pytest.raises(InputError, match=r"expected"):
        list(hellaswag.questions(damaged))


def test_the_file_has_a_question_a_line(tmp_path, capsys):
    (tmp_path / "lines.txt").write_text(LINES)
    assert hellaswag.main([str(tmp_path / "lines.txt"), str(tmp_path / "out.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"questions": 2}
    assert [json.loads(line)["label"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == ["3", "0"]


def test_texts_that_are_there_stay_and_the_end_of_prose_begins_with_a_line(tmp_path, capsys):
    prose = tmp_path / "long.txt"
    prose.write_text("".join(f"line {number:03}\n" for number in range(100)))  # 900 characters
    (tmp_path / "code.txt").write_text("kept")
    assert texts.main([str(tmp_path), "--prose", str(prose), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["code"]["sha256"] == hashlib.sha256(b"kept").hexdigest()
    assert (tmp_path / "prose.txt").read_text() == "".join(f"line {number:03}\n" for number in range(96, 100))
