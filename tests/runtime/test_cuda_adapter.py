"""The op for CUDA devices without one: registered for the CPU provider, with stand-ins for the CUDA library."""

import ctypes
import json
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import runtime_ext
from dualbinary import OP, digest
from dualbinary.contract.levels import GROUP_ZEROS, Levels
from tests.support.cuda_libraries import adapter_libraries, emulated_library
from tests.support.cuda_products import BFLOAT16, X_TYPES, assert_product, cuda_model, run
from tests.support.problems import ALL_SCALE_TYPES, Problem, make_problem, op_model

VARIABLE = "DUALBINARY_CUDA_LIBRARY"
LIBRARIES = ["fake", "emulated"]
"""Libraries with the interface of capi/dualbinary_cuda.h that every product is tried with: one that the build makes,
which multiplies by itself, and the project's kernels on the CPU."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stand-ins are built as ELF libraries")


@dataclass(frozen=True)
class Adapter:
    """A copy of the op's library, which opens its own CUDA library: a library keeps the one that it has opened."""

    path: Path

    def open(self, model: onnx.ModelProto | Path, threads: int = 1) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        options.register_custom_ops_library(str(self.path))
        source = str(model) if isinstance(model, Path) else model.SerializeToString()
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class Fake:
    """The fake library's record of what it was asked, and its orders."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.fake_cuda_library_events.restype = ctypes.c_char_p
        self.order()
        self.events()

    def events(self) -> list[dict]:
        """What was asked since the last call of this."""
        return [json.loads(line) for line in self._library.fake_cuda_library_events().decode().splitlines()]

    def order(self, fail_in: str = "", workspace: int = 0) -> None:
        self._library.fake_cuda_library_set(fail_in.encode(), ctypes.c_size_t(workspace))


@pytest.fixture(scope="session")
def build() -> Path:
    """Directory of the op's library and the stand-ins."""
    return adapter_libraries()


@pytest.fixture
def adapter(build, tmp_path) -> Adapter:
    """An adapter that has opened no CUDA library yet."""
    return Adapter(Path(shutil.copy(build / "libcuda_adapter.so", tmp_path)))


@pytest.fixture(scope="module", params=LIBRARIES)
def launched(request, build, tmp_path_factory) -> Iterator[Adapter]:
    """An adapter for each CUDA library."""
    copy = Adapter(Path(shutil.copy(build / "libcuda_adapter.so", tmp_path_factory.mktemp("launched"))))
    with pytest.MonkeyPatch.context() as patch:
        library = build / "libfake_cuda_library.so" if request.param == "fake" else emulated_library()
        patch.setenv(VARIABLE, str(library))
        session = copy.open(op_model(make_problem()))
    yield copy
    del session  # the last one of a library unloads it, which then forgets its CUDA library


@pytest.fixture
def fake(build, adapter, monkeypatch) -> Fake:
    """The fake library, which `adapter` will open."""
    monkeypatch.setenv(VARIABLE, str(build / "libfake_cuda_library.so"))
    return Fake(build / "libfake_cuda_library.so")


@pytest.mark.parametrize(("x_type", "scale_type", "offset"), product(X_TYPES, ALL_SCALE_TYPES, [False, True]))
def test_every_combination_of_types_gives_the_product(launched, x_type, scale_type, offset):
    problem = make_problem(M=(2, 3), K=100, group_size=32, x_type=x_type, scale_type=scale_type, offset=offset)
    assert_product(run(launched.open(cuda_model(problem)), problem.x), problem)


@pytest.mark.parametrize("planes", [1, 2, 3, 4])
def test_any_number_of_planes_gives_the_product(launched, planes):
    problem = make_problem(M=5, K=200, N=70, group_size=32, planes=planes, offset=True, x_type=np.float16)
    assert_product(run(launched.open(op_model(problem)), problem.x), problem)


@pytest.mark.parametrize(
    "form",
    [
        {"levels": Levels(True, 15)},
        {"levels": Levels(True), "offset": True},
        {"levels": Levels(True, GROUP_ZEROS)},
        {"levels": Levels(True, 16), "per_tensor": True, "group_size": 224},
    ],
)
def test_even_levels_give_the_product(launched, form):
    problem = make_problem(M=5, K=200, N=70, planes=4, x_type=np.float16, **{"group_size": 32, **form})
    assert_product(run(launched.open(op_model(problem)), problem.x), problem)


@pytest.mark.parametrize("lead", [(), (1,), (3,), (2, 3), (2, 1, 2, 2), (0,), (2, 0, 3)])
def test_any_leading_dimensions(launched, lead):
    problem = make_problem(M=lead, K=70, N=33, group_size=32)
    y = run(launched.open(op_model(problem)), problem.x)
    assert y.shape == (*lead, 33)
    assert_product(y, problem)


def test_concurrent_runs_of_one_session(launched):
    problem = make_problem(M=4, K=512, N=64, x_type=np.float16)
    session = launched.open(op_model(problem), threads=2)
    inputs = [problem.x[: 1 + i % 4] + np.float16(i) for i in range(16)]
    expected = [run(session, x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for result, alone in zip(pool.map(lambda x: run(session, x), inputs), expected, strict=True):
            np.testing.assert_array_equal(result, alone)


def test_a_weight_is_created_once_for_a_node_and_destroyed_with_the_session(adapter, fake):
    problem = make_problem(M=2, K=96, N=96, group_size=32, planes=3, offset=True, scale_type=np.float32)
    model = op_model(problem, accuracy_level=4)
    second = model.graph.node.add()
    second.CopyFrom(model.graph.node[0])
    second.name, second.input[0], second.output[0] = "second", "Y", "Z"
    model.graph.output[0].name = "Z"
    session = adapter.open(model)
    created = fake.events()
    numbers = [event.pop("weight") for event in created]
    spec = {"K": 96, "N": 96, "group_size": 32, "planes": 3, "scale_rows": 4, "accuracy_level": 4, "scale_type": 0}
    spec |= {"levels": 0, "twice_zero": 0, "scale_outputs": 96}
    assert created == [{"call": "create", "device": 0, **spec}] * 2
    for _ in range(2):
        run(session, problem.x)
        events = fake.events()
        assert [(event["call"], event["weight"]) for event in events] == [
            (call, number) for number in numbers for call in ("workspace", "multiply")
        ]
    del session
    assert sorted(fake.events(), key=lambda event: event["weight"]) == [
        {"call": "destroy", "weight": number} for number in numbers
    ]


@pytest.mark.parametrize(("x_type", "number"), [(np.float32, 0), (np.float16, 1), (BFLOAT16, 3)])
@pytest.mark.parametrize("workspace", [0, 1, 1000, 1 << 20])
def test_a_call_passes_type_rows_workspace_and_stream(adapter, fake, x_type, number, workspace):
    # The fake refuses a workspace that is not aligned or not asked for, and writes all of it.
    fake.order(workspace=workspace)
    problem = make_problem(M=(2, 3), x_type=x_type)
    assert_product(run(adapter.open(cuda_model(problem)), problem.x), problem)
    (*_, asked, multiplied) = (event for event in fake.events() if event["call"] != "destroy")
    assert (asked["call"], asked["type"], asked["rows"]) == ("workspace", number, 6)
    del multiplied["weight"]
    stream = 0  # the CPU provider's
    call = {"call": "multiply", "type": number, "rows": 6, "workspace": workspace, "stream": stream}
    assert multiplied == call


def test_workspaces_go_back_to_the_session(adapter, fake):
    size = 8 << 20
    fake.order(workspace=size)
    problem = make_problem()
    session = adapter.open(op_model(problem))
    run(session, problem.x)
    before = resident_bytes()
    for _ in range(30):
        run(session, problem.x)
    assert resident_bytes() - before < 4 * size


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_no_rows_ask_nothing(adapter, fake):
    session = adapter.open(op_model(make_problem()))
    fake.events()
    assert run(session, np.zeros((0, 256), np.float32)).shape == (0, 48)
    assert fake.events() == []


def test_the_cuda_librarys_refusal_of_a_weight_names_the_node(adapter, fake):
    fake.order(fail_in="create")
    with pytest.raises(Exception, match="DualBinaryMatMul node 'proj': told to fail in create"):
        adapter.open(op_model(make_problem()))
    assert fake.events() == []


@pytest.mark.parametrize("function", ["workspace", "multiply"])
def test_the_cuda_librarys_refusal_of_a_call_names_the_node(adapter, fake, function):
    problem = make_problem()
    session = adapter.open(op_model(problem))
    fake.order(fail_in=function)
    with pytest.raises(Exception, match=f"DualBinaryMatMul node 'proj': told to fail in {function}"):
        run(session, problem.x)
    fake.order()
    assert_product(run(session, problem.x), problem)


def assert_refused(adapter: Adapter, *parts: str, problem: Problem | None = None, **options) -> None:
    with pytest.raises(Exception) as caught:  # onnxruntime has a class for each code, none of them public
        adapter.open(op_model(problem or make_problem(), **options))
    message = str(caught.value)
    for part in ["DualBinaryMatMul node 'proj': ", *parts]:
        assert part in message
    assert "\n" not in message


def test_too_many_planes_are_refused_with_the_way_out(adapter, fake):
    parts = "number of planes: expected 1 to 4 on a CUDA device, got 5", "use the CPU provider"
    assert_refused(adapter, *parts, problem=make_problem(planes=5))
    assert fake.events() == []


def test_too_many_inputs_are_refused_with_the_way_out(adapter, fake):
    K = OP.cuda["max_k"] + 32
    wide = Problem(np.zeros((1, K), "f4"), np.zeros((1, 1, K // 8), "u1"), np.zeros((1, 1, 1), "f2"), K, 1, K)
    assert_refused(
        adapter, f"K: expected at most {K - 32} on a CUDA device, got {K}; use the CPU provider", problem=wide
    )
    assert fake.events() == []


def test_groups_of_16_are_refused_with_the_way_out(adapter, fake):
    halves = make_problem(group_size=16, levels=Levels(True, 3))
    message = "group_size: expected a multiple of 32 on a CUDA device, got 16; use the CPU provider"
    assert_refused(adapter, message, problem=halves)
    assert fake.events() == []


def test_a_layout_for_cpus_is_refused_with_the_way_out(adapter, fake):
    blocks = Problem(np.zeros((1, 64), np.float32), np.zeros((1, 768), np.uint8), np.zeros((2, 8, 0), "f2"), 64, 8, 32)
    parts = (
        "layout: expected 1 (plain) or 5 (codes) on a CUDA device, got 2 (avx512)",
        "relayout FILE OUT --layout plain",
    )
    assert_refused(adapter, *parts, problem=blocks, layout=2)
    assert fake.events() == []


def test_a_factor_that_is_not_finite_is_refused(adapter, fake):
    problem = make_problem(scale_type=np.uint8)
    problem.scales[1, 3, :2] = [0x00, 0x7C]
    message = "scales: expected finite factors, got infinity or NaN in row 1 of output 3"
    assert_refused(adapter, message, problem=problem)
    assert fake.events() == []


def test_pages_of_a_mapped_file_are_let_go(adapter, fake, tmp_path):
    path = tmp_path / "model.onnx"
    problem = make_problem(K=4096, N=1024)
    onnx.save(op_model(problem), path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    session = adapter.open(path)
    assert resident_of(tmp_path / "model.onnx.data") < problem.planes.nbytes / 4
    assert_product(run(session, problem.x), problem)


def resident_of(file: Path) -> int:
    """Bytes in memory of the mappings of a file; there must be one."""
    found, inside = [], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        field, *rest = line.split()
        if "-" in field and not field.endswith(":"):
            inside = bool(rest) and rest[-1] == str(file)
        elif inside and field == "Rss:":
            found.append(1024 * int(rest[0]))
    assert found, f"{file} is not mapped"
    return sum(found)


def test_the_cuda_library_is_found_beside_the_library(adapter, build, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    shutil.copy(build / "libfake_cuda_library.so", adapter.path.with_name("libdualbinary_cuda.so"))
    problem = make_problem()
    assert_product(run(adapter.open(op_model(problem)), problem.x), problem)


def test_a_build_without_cuda_kernels_says_how_to_get_them(adapter, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    place = adapter.path.with_name("libdualbinary_cuda.so")
    ways_out = f"build with -DDUALBINARY_CUDA=ON, name the file in {VARIABLE}, or use the CPU provider"
    assert_refused(adapter, f"there is no {place}, so no CUDA kernels; {ways_out}")


def test_an_empty_variable_is_none(adapter, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    assert_refused(adapter, "so no CUDA kernels")


def test_a_failed_attempt_is_tried_again(adapter, build, monkeypatch, tmp_path):
    text = tmp_path / "text.so"
    text.write_text("not a library")
    attempts = {
        tmp_path / "absent.so": [f"{VARIABLE}={tmp_path}/absent.so: no such file", "use the CPU provider"],
        text: [f"{text} cannot be opened: ", "file too short", "use the CPU provider"],
        build / "libfake_cuda_library_without_multiply.so": ["has no function dualbinary_cuda_multiply", "one version"],
        build / "libfake_cuda_library_of_another_contract.so": [
            f"was built from contract 0123456789abcdef, libdualbinary from {digest()}",
            "one version",
        ],
    }
    for path, parts in attempts.items():
        monkeypatch.setenv(VARIABLE, str(path))
        assert_refused(adapter, *parts)
    monkeypatch.setenv(VARIABLE, str(build / "libfake_cuda_library.so"))
    first = adapter.open(op_model(make_problem()))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "absent.so"))
    adapter.open(op_model(make_problem()))  # with the library that is open
    del first


def test_a_relative_name_is_that_of_a_file(adapter, build, monkeypatch, tmp_path):
    # dlopen would look for a bare name in the system's directories.
    shutil.copy(build / "libfake_cuda_library.so", tmp_path / "bare_name.so")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "bare_name.so")
    adapter.open(op_model(make_problem()))


def test_a_session_on_cpus_looks_for_no_cuda_library(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "absent.so"))
    options = ort.SessionOptions()
    runtime_ext.register(options)
    problem = make_problem()
    session = ort.InferenceSession(op_model(problem).SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert_product(run(session, problem.x), problem)
