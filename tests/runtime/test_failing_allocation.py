"""Memory that fails inside the library: each allocation of a session's creation and run, one after another.

A child process has `failing_malloc.c` before the system's malloc, and lets one call out of the library fail. What
ONNX Runtime allocates itself always gets memory. Expected: an error that says so, or the right result.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import hadamards, problems
from tests.support.blocks import attention_case, mlp_case

HERE = Path(__file__).parent
CASES = ("product", "mlp", "attention", "hadamard")

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD and /proc are Linux's"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc to build the failing malloc with"),
]

CHILD = """
import ctypes, sys
import numpy as np, onnx, onnxruntime as ort
from runtime_ext.library import library_path

model, inputs, threads = sys.argv[1], dict(np.load(sys.argv[2])), int(sys.argv[3])
library = str(library_path())
malloc = ctypes.CDLL(None)
malloc.fail_nth.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_long]
malloc.calls.restype = ctypes.c_long

def compute():
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(library)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)

wanted = compute()
spans = [line.split()[0].split("-") for line in open("/proc/self/maps") if line.rstrip().endswith(library)]
begin, end = min(int(span[0], 16) for span in spans), max(int(span[1], 16) for span in spans)
failed = number = 0
while True:
    malloc.fail_nth(begin, end, number)
    try:
        found = compute()
    except Exception as error:
        failed += 1
        assert "memory" in str(error) or "bad_alloc" in str(error), str(error)
    else:
        assert all(np.array_equal(one, other, equal_nan=True) for one, other in zip(found, wanted)), number
    done = malloc.calls() <= number
    malloc.fail_nth(0, 0, -1)
    if done:
        break
    number += 1
assert all(np.array_equal(one, other, equal_nan=True) for one, other in zip(compute(), wanted))
print(number, failed)
"""


@pytest.fixture(scope="module")
def failing_malloc(tmp_path_factory):
    """The shared object to preload."""
    target = tmp_path_factory.mktemp("malloc") / "failing_malloc.so"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", target, HERE / "failing_malloc.c"], check=True)
    return target


def case_of(name):
    """A model and its inputs."""
    if name in ("mlp", "attention"):
        case = mlp_case() if name == "mlp" else attention_case()
        return case.model(), case.inputs
    if name == "hadamard":
        case = hadamards.make_case()
        return hadamards.op_model(case), {"X": case.x}
    problem = problems.make_problem(M=9)
    return problems.op_model(problem), {"X": problem.x}


@pytest.mark.parametrize(
    ("threads", "name"),
    [(1, "product"), *((2, name) for name in CASES)]
    + [pytest.param(1, name, marks=pytest.mark.slow) for name in CASES if name != "product"],
)
def test_no_allocation_of_the_library_can_end_the_process(failing_malloc, tmp_path, name, threads):
    model, inputs = case_of(name)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    np.savez(tmp_path / "inputs.npz", allow_pickle=False, **inputs)
    environment = {**os.environ, "LD_PRELOAD": str(failing_malloc)}
    command = [sys.executable, "-c", CHILD, tmp_path / "model.onnx", tmp_path / "inputs.npz", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    tried, failed = map(int, done.stdout.split())
    assert tried > 10
    assert failed > 5
