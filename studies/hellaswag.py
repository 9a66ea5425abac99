"""Questions of HellaSwag from a file as llama.cpp's `--hellaswag` reads it, for `--tasks hellaswag=OUT.jsonl`.

    python -m studies.hellaswag hellaswag_val.txt OUT.jsonl

The file has six lines a question: "activity: context", the number of the right ending, and four endings. The last words
of a context, which begin a sentence, stand there in small letters; lm-evaluation-harness takes them apart (ctx_b) and
writes the first one large.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dualbinary import InputError
from dualbinary.cli.console import add_common_options, run
from dualbinary.files.atomic import write_text

__all__ = ["main", "questions"]

LINES, ENDINGS = 6, 4


def questions(text: str) -> Iterator[dict[str, Any]]:
    """Yield the questions of such a file with the fields of the data set. Raises InputError for lines that are none."""
    lines = text.splitlines()
    if len(lines) % LINES:
        raise InputError(f"{len(lines)} lines, expected {LINES} for each question")
    for begin in range(0, len(lines), LINES):
        context, label, *endings = lines[begin : begin + LINES]
        activity, sign, rest = context.partition(": ")
        if not sign or label.strip() not in map(str, range(ENDINGS)):
            raise InputError(f"line {begin + 1}: expected 'activity: context' and below it 0 to {ENDINGS - 1}")
        first, stop, last = rest.strip().rpartition(". ")
        whole = not stop or last.endswith(".")
        yield {
            "activity_label": activity,
            "ctx_a": rest.strip() if whole else f"{first}.",
            "ctx_b": "" if whole else last,
            "endings": endings,
            "label": label.strip(),
        }


def _command(args: argparse.Namespace) -> None:
    found = list(questions(args.file.read_text(encoding="utf-8")))
    write_text(args.out, "".join(json.dumps(question, ensure_ascii=False) + "\n" for question in found))
    print(json.dumps({"questions": len(found)}) if args.json else f"{args.out}: {len(found)} questions")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.hellaswag", description="Questions for lm-eval from lines."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="questions as llama.cpp reads them")
    parser.add_argument("out", type=Path, metavar="OUT.jsonl", help="file to write")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
