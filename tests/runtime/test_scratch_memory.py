"""Calls borrow their memory: what stays with the library is what they needed at once, not what each of them needed."""

import subprocess
import sys

import pytest

# Attention of 9 tokens reads an int8 cache through packed keys and values, 8 KB for each token before. ONNX Runtime's
# own buffers have the same size in all calls.
SCRIPT = """
import sys
import numpy as np
from tests.support.blocks import attention_case
from tests.support.sessions import open_session

case = attention_case(9, (2039,), 2048, heads=(8, 8, 128), products=False, rotated=None, norm=False, cache=np.int8)
session = open_session(case.model(), 1)
for length in map(int, sys.argv[1:]):
    last, longest = np.full(1, length - 1, np.int32), np.full(1, length, np.int32)
    session.run(None, case.inputs | {"last_keys": last, "longest": longest})
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")))
"""


def resident(*lengths: int) -> float:
    """Megabytes of a process after calls over so many tokens."""
    words = [sys.executable, "-c", SCRIPT, *map(str, lengths)]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout) / 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_contexts_that_grow_leave_no_outgrown_buffers():
    growing = resident(*range(1088, 2049, 64))
    assert growing < resident(*[2048] * 16) + 16  # one more such buffer; all of them are 200 MB
