"""One profile for all property tests, and the rule when a test of a GPU runs."""

import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, settings

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
