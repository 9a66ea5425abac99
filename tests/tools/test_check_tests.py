"""The rules of the tests: what breaks them is named, what only looks like it is not."""

import pytest

from tools.check_tests import findings

NAME = "tests/calib/test_x.py"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("from tests.calib.test_y import helper", "imports tests.calib.test_y.helper; tests import no other test"),
        ("def test_x():\n    import tests.runtime.test_y", ":2: imports tests.runtime.test_y"),
        ("from benchmarks.common.timing import ratio", "take it from tests.support"),
        ("from tools import check_files", "take it from tests.support"),
        ("from calib.plan import _total", "calib.plan._total is private"),
        ("x = layer._handle", ":1: _handle is private"),
        ("x = made()[0].y._handle", "_handle is private"),
        ("import calib.plan\ncalib.plan._total()", ":2: _total is private"),
        ("from calib import plan\nmonkeypatch.setattr(plan, '_total', 1)", ":2: _total is private"),
        ("monkeypatch.setattr('calib.plan._total', 1)", "calib.plan._total is private"),
        ("getattr(layer, '_handle')", "_handle is private"),
    ],
)
def test_what_breaks_a_rule_is_named(text, words):
    (finding,) = findings(NAME, text)
    assert finding.startswith(NAME)
    assert words in finding


@pytest.mark.parametrize(
    "text",
    [
        "from tests.support.problems import Problem",
        "from tests.support import tiny_sessions",
        "import torch\nmonkeypatch.setattr(torch.cpu, '_is_supported', 1)\ntorch._C.f()",
        "class A:\n    def __init__(self):\n        super()._begin()\n        self._x = self._y",
        "usage = usage._replace(free=1)\nx.__class__",
        "def _helper():\n    pass",
    ],
)
def test_what_tests_may_do_is_no_finding(text):
    assert list(findings(NAME, text)) == []


@pytest.mark.parametrize("name", ["tests/benchmarks/test_x.py", "tests/support/measures.py"])
def test_tests_of_benchmarks_import_them(name):
    assert list(findings(name, "from benchmarks.common.timing import ratio")) == []
