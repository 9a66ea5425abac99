"""Stored layouts of blocks: the same products as from layout plain, used where they are, refused by name elsewhere."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import runtime_ext
from dualbinary import OP, InputError, to_layout
from dualbinary.contract import golden
from dualbinary.contract.levels import FREE, Levels
from dualbinary.contract.scale_codes import SCALE_DTYPES
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat
from runtime_ext.capi import Weight
from tests.support.kernels import FAST_KERNELS, FREE_LEVELS, LEVELS, each, problem_for, product, serves
from tests.support.problems import Problem, make_problem, op_model, problems
from tests.support.sessions import open_session, run

LAYOUT_OF = {kernel["name"]: kernel["layout"] for kernel in runtime_ext.describe()["kernels"]}
BLOCKS = [layout for layout in OP.layouts if layout.blocks]
READABLE = [layout for layout in BLOCKS if layout.name in runtime_ext.describe()["layouts"]]


def in_blocks(problem: Problem, layout: str) -> Problem:
    sizes = (problem.K, problem.group_size, problem.levels)
    planes, scales = to_layout(layout, problem.planes, problem.scales, *sizes)
    return replace(problem, planes=planes, scales=scales)


def from_blocks(problem: Problem, kernel: str | None = None, layout: str = "", **changes) -> Weight:
    layout = layout or LAYOUT_OF[str(kernel)]
    stored = in_blocks(problem, layout)
    arguments = {
        "K": problem.K,
        "group_size": problem.group_size,
        "levels": problem.levels,
        "layout": OP.layout_named(layout).number,
        "planes_in_blocks": len(problem.planes),
        "accuracy_level": LEVELS[kernel] if kernel else 0,
        "kernel": kernel,
    }
    return Weight(stored.planes, stored.scales, **arguments | changes)


def product_from_blocks(kernel: str, problem: Problem) -> np.ndarray:
    assume(serves(kernel, problem.levels))
    with from_blocks(problem, kernel) as weight:
        return weight.multiply(problem.x.reshape(-1, problem.K)).reshape(*problem.x.shape[:-1], problem.N)


SCALE_TYPES = {name: dtype for dtype, name in SCALE_DTYPES.items()}
TINY = 2.0**-124
"""Tables cannot hold such inputs, so that the stored bits themselves are multiplied; golden results stay exact."""


def golden_problem(case: dict[str, Any], layout: str) -> tuple[Problem, np.ndarray]:
    """The problem of a golden vector of a layout, with tiny inputs, and its results."""
    levels = Levels(True, case["twice_zero"]) if "twice_zero" in case else FREE
    form = PlaneFormat(
        case["P"],
        case["group_size"],
        case["C"] > levels.scale_rows(case["P"]),
        levels="even" if levels.even else "free",
        zero=EACH_GROUP if levels.group_zeros else levels.twice_zero / 2,
        scale_dtype=SCALE_TYPES[case["scale_type"]],
        layout=layout,
        per_tensor=case["name"] == "one_step" and layout == "plain",
    )
    planes, scales = (
        np.frombuffer(bytes.fromhex(case[name]), dtype).reshape(shape)
        for name, dtype, shape in zip(
            ("planes", "scales"), (np.uint8, form.scale_dtype), form.shapes(case["N"], case["K"]), strict=True
        )
    )
    x = np.array(case["x"], np.float32).reshape(case["M"], case["K"])
    y = np.array(case["y"], np.float32).reshape(case["M"], case["N"])
    return Problem(np.float32(TINY) * x, planes, scales, case["K"], case["N"], case["group_size"], levels), y * TINY


@each(LEVELS)
@pytest.mark.parametrize("case", golden.load(1, 2), ids=lambda case: case["name"])
def test_golden_weights_of_version_2_are_packed_and_unpacked_without_loss(kernel, case):
    problem, y = golden_problem(case, "plain")
    if not serves(kernel, problem.levels):
        pytest.skip(f"{kernel} does not serve these levels")
    np.testing.assert_array_equal(product(kernel, problem), y)


@each(FAST_KERNELS)
@pytest.mark.parametrize("number", range(len(golden.load(1, 2))))
def test_golden_blocks_of_version_2_are_read_bit_for_bit(kernel, number):
    layout = OP.layout_named(LAYOUT_OF[kernel])
    case = golden.load(layout.number, 2)[number]
    problem, y = golden_problem(case, layout.name)
    if not serves(kernel, problem.levels):
        pytest.skip(f"{kernel} does not serve these levels")
    sizes = {"K": problem.K, "group_size": problem.group_size, "levels": problem.levels, "layout": layout.number}
    with Weight(
        problem.planes,
        problem.scales,
        **sizes,
        planes_in_blocks=case["P"],
        accuracy_level=LEVELS[kernel],
        kernel=kernel,
    ) as weight:
        np.testing.assert_array_equal(weight.multiply(problem.x), y)


@each(FAST_KERNELS)
@given(problem=problems())
@settings(max_examples=60)
def test_a_product_from_blocks_is_that_from_layout_plain_bit_for_bit(kernel, problem):
    np.testing.assert_array_equal(product_from_blocks(kernel, problem), product(kernel, problem))


def forwards(task, count):
    for index in range(count):
        task(index)


def backwards(task, count):
    for index in reversed(range(count)):
        task(index)


@each(FAST_KERNELS)
def test_of_several_wrong_factors_the_first_is_named_in_whatever_order_threads_meet_them(kernel):
    problem = problem_for(kernel, K=512, N=4096, scale_type=np.uint8)
    problem.scales[:, 70:, :2] = [0x00, 0x7C]
    with from_blocks(problem, kernel) as weight:
        for parallel in (forwards, backwards):
            with pytest.raises(InputError, match=r"infinity or NaN in row 0 of output 70$"):
                weight.multiply(problem.x, parallel=parallel)


@each(FAST_KERNELS)
@given(
    problem=problems(rows=(2, 17)),
    value=st.sampled_from([np.nan, np.inf, -np.inf, 3e38, 1e-44]),
    place=st.integers(0, 2**31),
)
@settings(max_examples=40)
def test_rows_that_tables_cannot_hold_are_computed_from_blocks(kernel, problem, value, place):
    with np.errstate(over="ignore"):
        problem.x.reshape(-1)[place % problem.x.size] = value
    np.testing.assert_array_equal(product_from_blocks(kernel, problem), product(kernel, problem))
    reference = problem.reference()
    got = product_from_blocks(kernel, problem)
    with np.errstate(over="ignore"):
        special = ~np.isfinite(reference.astype(got.dtype))
        np.testing.assert_array_equal(got[special], reference.astype(got.dtype)[special])


@each(FAST_KERNELS)
def test_blocks_at_any_address_give_the_same(kernel):
    problem = problem_for(kernel, M=3, N=70, K=200, group_size=32, offset=True)
    blocks = in_blocks(problem, LAYOUT_OF[kernel])
    expected = product(kernel, problem)
    memory = np.zeros(blocks.planes.size + 128, np.uint8)
    for start in (0, 1, 63):
        begin = -memory.ctypes.data % 64 + start
        planes = memory[begin : begin + blocks.planes.size].reshape(blocks.planes.shape)
        planes[:] = blocks.planes
        with Weight(
            planes,
            blocks.scales,
            K=problem.K,
            group_size=problem.group_size,
            levels=problem.levels,
            layout=OP.layout_named(LAYOUT_OF[kernel]).number,
            planes_in_blocks=2,
            accuracy_level=LEVELS[kernel],
            kernel=kernel,
        ) as weight:
            np.testing.assert_array_equal(weight.multiply(problem.x), expected)


def save(problem: Problem, layout: str, path: Path) -> str:
    """A model of one node with external data, each tensor at a multiple of 4096."""
    model = op_model(in_blocks(problem, layout), layout=OP.layout_named(layout).number)
    onnx.save(model, str(path), save_as_external_data=True, location="data", size_threshold=1024)
    return str(path)


def mapping(path: Path) -> dict[str, int]:
    """Sums over this process's mappings of a file: resident and anonymous kilobytes."""
    blocks = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    mine = [block for block in blocks if block.split("\n", 1)[0].endswith(str(path))]
    assert mine, f"{path} is not mapped"
    return {
        name: sum(int(size) for block in mine for size in re.findall(rf"^{name}:\s+(\d+)", block, re.MULTILINE))
        for name in ("Rss", "Anonymous")
    }


@pytest.mark.parametrize("scale_type", [np.float16, np.float32, np.uint8])
@pytest.mark.parametrize("layout", [layout.name for layout in BLOCKS])
def test_a_session_uses_the_mapped_file(tmp_path, layout, scale_type):
    if layout not in {layout.name for layout in READABLE}:
        pytest.skip(f"this machine does not read layout {layout}")
    problem = make_problem(M=3, K=2048, N=2048, group_size=128, offset=True, scale_type=scale_type)
    before = runtime_ext.describe()["packed"]["copies"]
    session = open_session(save(problem, layout, tmp_path / "model.onnx"))
    loaded = mapping(tmp_path / "data")
    assert runtime_ext.describe()["packed"]["copies"] == before
    size = (tmp_path / "data").stat().st_size // 1024
    assert loaded["Rss"] <= size // 8, "loading has read the weights"
    kernel = next(name for name, of in LAYOUT_OF.items() if of == layout and LEVELS[name] == 0 and name in FREE_LEVELS)
    np.testing.assert_array_equal(run(session, problem.x), product(kernel, problem))
    used = mapping(tmp_path / "data")
    assert used["Rss"] >= size // 2, "the product did not come from the file"
    assert used["Anonymous"] == 0


@pytest.mark.parametrize("layout", [layout.name for layout in BLOCKS])
def test_an_instruction_set_that_cannot_read_a_layout_says_so(monkeypatch, layout):
    problem = make_problem()
    isas = dict.fromkeys(kernel["isa"] for kernel in runtime_ext.describe()["kernels"] if kernel["available"])
    refused = 0
    for isa in ["", *isas]:
        monkeypatch.setenv("DUALBINARY_ISA", isa)
        readable = runtime_ext.describe()["layouts"]
        if layout in readable:
            open_session(op_model(in_blocks(problem, layout), layout=OP.layout_named(layout).number))
            continue
        refused += 1
        with pytest.raises(Exception, match="DualBinaryMatMul node 'proj': layout") as caught:
            open_session(op_model(in_blocks(problem, layout), layout=OP.layout_named(layout).number))
        parts = [
            f"layout {OP.layout_named(layout).number} ({layout})",
            f"readable here: {', '.join(readable)}",
            "dualbinary relayout FILE OUT --layout plain",
        ]
        for part in parts:
            assert part in str(caught.value)
        with pytest.raises(InputError, match=rf"layout {OP.layout_named(layout).number} \({layout}\)"):
            from_blocks(problem, layout=layout)
    assert refused, "the exact kernel reads no blocks"


@each(FAST_KERNELS)
def test_a_kernel_named_for_another_layout_is_refused(kernel):
    other = next(layout.name for layout in BLOCKS if layout.name != LAYOUT_OF[kernel])
    with pytest.raises(
        InputError, match=f"kernel {kernel} reads the layouts plain, codes and {LAYOUT_OF[kernel]}, got {other}"
    ):
        from_blocks(problem_for(kernel), kernel, other)


GOOD = make_problem(K=64, N=40, group_size=32, planes=2, offset=True)
BYTES = in_blocks(GOOD, "avx2").planes.shape[1]


@pytest.mark.parametrize(
    ("planes", "scales", "message"),
    [
        ((2, BYTES - 1), (3, 40, 0), rf"planes: expected blocks of \d+ or {BYTES} bytes for 3 rows of scales"),
        ((2, BYTES + 64), (3, 40, 0), "planes: expected blocks of"),
        ((2, 0), (3, 40, 0), "planes: expected blocks of"),
        ((1, BYTES), (3, 40, 0), rf"planes: expected shape \[2, {BYTES}\], got \[1, {BYTES}\]"),
        ((3, BYTES), (3, 40, 0), rf"planes: expected shape \[2, {BYTES}\], got \[3, {BYTES}\]"),
        ((2 * BYTES,), (3, 40, 0), r"planes: expected shape \[B, bytes of a block\]"),
        ((2, BYTES, 1), (3, 40, 0), r"planes: expected shape \[B, bytes of a block\]"),
        ((2, 40, 8), (3, 40, 2), r"planes: expected shape \[B, bytes of a block\]"),
        ((2, BYTES), (3, 40, 2), r"scales: expected shape \[3, 40, 0\], got \[3, 40, 2\]"),
        ((2, BYTES), (3, 41, 0), r"scales: expected shape \[3, 40, 0\], got \[3, 41, 0\]"),
        ((2, BYTES), (3, 40), r"scales: expected shape \[C, N, 0\]"),
        ((2, BYTES), (0, 40, 0), "number of planes: expected 1 to 8"),
        ((2, BYTES), (10, 40, 0), "number of planes: expected 1 to 8"),
        ((2, BYTES), (2, 40, 0), "planes: expected blocks of"),
    ],
)
@pytest.mark.parametrize("layout", [layout.number for layout in BLOCKS])
def test_tensors_of_the_wrong_shape_are_refused(layout, planes, scales, message):
    problem = replace(GOOD, planes=np.zeros(planes, np.uint8), scales=np.zeros(scales, np.float16))
    with pytest.raises(Exception, match=message):
        open_session(op_model(problem, layout=layout))


def test_a_plain_weight_that_says_it_is_blocks_is_refused():
    with pytest.raises(Exception, match="planes: expected shape"):
        open_session(op_model(GOOD, layout=2))


def test_a_data_file_that_is_too_short_is_refused(tmp_path):
    layout = BLOCKS[0].name
    path = save(make_problem(K=512, N=256), layout, tmp_path / "model.onnx")
    with open(tmp_path / "data", "r+b") as data:
        data.truncate((tmp_path / "data").stat().st_size - 64)
    with pytest.raises(Exception, match=r"data|extern|bound|size"):
        open_session(path)


@each(FAST_KERNELS)
def test_a_factor_that_is_not_finite_fails_the_run_that_meets_it(kernel):
    problem = problem_for(kernel, M=2, K=64, N=40, group_size=32, offset=True, scale_type=np.uint8)
    for bits in (0x7C00, 0xFC00, 0x7E00):
        problem.scales[1, 35, :2] = [bits & 255, bits >> 8]
        with from_blocks(problem, kernel) as weight, pytest.raises(InputError, match="row 1 of output 35"):
            weight.multiply(problem.x)


def test_the_c_api_wants_the_bytes_of_all_blocks():
    if not READABLE:
        pytest.skip("this machine reads layout plain alone")
    layout = READABLE[0]
    blocks = in_blocks(GOOD, layout.name)
    arguments: dict[str, Any] = {"K": 64, "group_size": 32, "layout": layout.number, "planes_in_blocks": 2}
    with pytest.raises(
        InputError, match=rf"planes: expected {blocks.planes.size} bytes, got {blocks.planes.size // 2}"
    ):
        Weight(blocks.planes[:1], blocks.scales, **arguments)
    with pytest.raises(InputError, match="scales: expected 0 bytes, got 480"):
        Weight(blocks.planes, GOOD.scales, **arguments)
    with pytest.raises(InputError, match="rows of scales"):
        Weight(blocks.planes, blocks.scales, **{**arguments, "planes_in_blocks": 4})
