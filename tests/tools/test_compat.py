"""Models on other versions: what is said of an environment whose process ends badly, and when."""

from pathlib import Path

import pytest

from tools.compat.__main__ import answers

MODELS = [Path(name) for name in ("a.onnx", "b.onnx", "c.onnx")]
# Python's place: it answers the models behind `--` up to one that is named `last`, and ends with code 3 there.
PROBE = """#!/bin/sh
while [ "$1" != -- ]; do shift; done
shift
for model in "$@"; do
    case "$model" in *LAST) [ BEFORE = yes ] && { echo oh >&2; exit 3; };; esac
    echo '{"tokens": [1]}'
    case "$model" in *LAST) echo oh >&2; exit 3;; esac
done
"""


@pytest.fixture
def python(tmp_path):
    """Make what stands for Python: it ends before, or behind, its answer to the model `last`."""

    def make(last: str, before: bool) -> Path:
        path = tmp_path / "python"
        path.write_text(PROBE.replace("LAST", last).replace("BEFORE", "yes" if before else "no"))
        path.chmod(0o755)
        return path

    return make


@pytest.mark.parametrize(
    ("last", "before", "failed"),
    [("none", True, []), ("a.onnx", True, [0]), ("c.onnx", True, [2]), ("b.onnx", False, [2]), ("c.onnx", False, [2])],
)
def test_every_model_has_one_row_whenever_the_process_ends(python, last, before, failed):
    found = answers(python(last, before), MODELS, "library", 1)
    error = {"error": "exit code 3: oh", "ours": False}
    assert found == [error if place in failed else {"tokens": [1]} for place in range(len(MODELS))]
