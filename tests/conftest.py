"""One profile for all property tests, one thread for PyTorch, and the rule when a test of a GPU runs."""

import gc
import os
import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, settings

# Read when PyTorch is imported, here and in commands that tests start. Several tests run at a time, and operations on
# tiny tensors gain nothing from threads; one of these that waits for another takes a core from a test.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Modules of PyTorch and transformers, and ONNX graphs, are many objects and no garbage: a twentieth of the time went
# into looking through them.
gc.set_threshold(100_000, 20)

# The same examples in every run, so that a failure is one for everybody; no deadline, since machines differ.
settings.register_profile(
    "fixed", derandomize=True, deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fixed")


def pytest_collection_modifyitems(items):
    if any(item.get_closest_marker("gpu") for item in items) and not _has_cuda_device():
        skip = pytest.mark.skip(reason="no CUDA device")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


def _has_cuda_device() -> bool:
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True, check=False).returncode == 0
