"""The library on CPUs that are not here, under qemu. `make check-arm` and `make check-baseline` run far more there."""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import runtime_ext
from tests.support.products import results, save_problems, varied_problems

ROOT = Path(__file__).resolve().parents[2]
EMULATE = [sys.executable, str(ROOT / "tools" / "emulate.py")]
ARM_TOOLS = {"qemu-aarch64": "qemu-user", "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu", "apt-get": "apt"}


@pytest.fixture(autouse=True)
def kernels_of_the_emulated_cpu(monkeypatch):
    """DUALBINARY_ISA, with which the tests of this machine may be asked for, is no choice for another CPU."""
    monkeypatch.delenv("DUALBINARY_ISA", raising=False)


def require(tools: dict[str, str]) -> None:
    missing = [f"{tool} (Debian package {package})" for tool, package in tools.items() if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"this machine lacks {', '.join(missing)}")


# Few imports: each takes seconds under an emulator.
SCALAR_PATH = """
import numpy as np
import runtime_ext
from dualbinary import dual_binary_matmul, pack_planes
from runtime_ext.capi import Weight

facts = runtime_ext.describe()
assert facts["cpu_features"] == [], facts
assert set(facts["chosen"].values()) == {"exact_f64_scalar"}, facts
rng = np.random.default_rng(0)
planes = pack_planes(rng.integers(0, 2, (3, 33, 190)), 96)
scales = rng.standard_normal((4, 33, 2)).astype(np.float16)
x = rng.standard_normal((3, 190)).astype(np.float32)
with Weight(planes, scales, K=190, group_size=96, accuracy_level=4) as weight:
    y = weight.multiply(x)
np.testing.assert_array_equal(y, dual_binary_matmul(x, planes, scales, K=190, N=33, group_size=96).astype(np.float32))
print("the scalar path is right")
"""


def test_a_cpu_without_avx_runs_the_scalar_path():
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("this library is not for x86-64")
    require({"qemu-x86_64": "qemu-user"})
    result = subprocess.run([*EMULATE, "nehalem", "-c", SCALAR_PATH], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "the scalar path is right", result.stderr


def test_a_machine_without_an_emulator_is_told_what_to_install(tmp_path):
    command = [*EMULATE, "nehalem", "-c", "pass"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)})
    assert result.returncode == 2
    assert result.stderr == "emulate.py: qemu-x86_64 was not found: install the Debian package qemu-user\n"


@pytest.mark.slow
def test_neon_results_are_those_of_avx2_to_the_bit(tmp_path):
    # The same operations on integers and floats in the same order, whatever the CPU.
    tables = [k for k in runtime_ext.describe()["kernels"] if k["name"].startswith("table")]
    ours = [kernel["name"] for kernel in tables if kernel["isa"] == "avx2" and kernel["available"]]
    if not ours:
        pytest.skip("this CPU has no AVX2 to compare with")
    require(ARM_TOOLS)
    subprocess.run(["make", "--silent", "arm-library"], cwd=ROOT, check=True, capture_output=True)
    problems, theirs = tmp_path / "problems.npz", tmp_path / "results.npz"
    save_problems(problems, varied_problems())
    names = [name.replace("avx2", "neon") for name in ours]
    command = [*EMULATE, "cortex-a53", "-m", "tests.support.products", str(problems), str(theirs), *names]
    subprocess.run(command, check=True)
    emulated = np.load(theirs)
    for key, y in results(problems, ours).items():
        np.testing.assert_array_equal(emulated[key.replace("avx2", "neon")], y, err_msg=key)
