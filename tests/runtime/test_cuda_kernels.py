"""The kernels for CUDA devices against the float64 reference: emulated here, and on a device if there is one.

What a result may differ by follows the kernels' arithmetic. Those for few rows round X to integers with one step for
each row and tile of 128 inputs, step = max |x| / B with B = 127 (level 4) or 2^15 - 1 (level 0); an input errs by half
a step, and by what float32 loses in the inverse, the product and the step, 2^-24 of B each. All planes of a weight see
the same error, so it counts with the weight itself. Even levels are computed as the free levels that they are.

Those for many rows round weights to float16: each pair of planes once, 2^-11 of the sum of its scales, and their sums
once more. X is exact in float16 and bfloat16, but for what lies 2^-39 below the largest of its row; float32 keeps 22
bits at level 0 and 11 at level 4. The tensor cores add float32; each of the K / 16 steps may cut 2^-23 of the sum of
magnitudes.
"""

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualbinary.contract.layout import dequantize
from dualbinary.contract.levels import FREE, GROUP_ZEROS, Levels
from dualbinary.contract.schema import OP, padded_k
from dualbinary.errors import InputError
from runtime_ext.cuda_capi import CudaWeight, describe
from tests.support.codes import CODES, in_codes
from tests.support.cuda_libraries import GUARD, INSTRUCTIONS, X_TYPES, Device, Emulated, Gpu, emulated_library, probe
from tests.support.problems import ALL_SCALE_TYPES, EPS, Problem, assert_close, make_problem, zero_points

BFLOAT16 = ml_dtypes.bfloat16
KERNELS = {"decode_b1": (1, 2, 3, 4), "decode_s8": (1, 4, 5, 8, 9, 16), "prefill_mma": (1, 17, 40, 70, 130)}
KERNELS["prefill_wgmma"] = (1, 65, 130, 300)
"""Rows that each kernel is tried with: every shape of block that it has."""
CAPABILITIES = {"decode_b1": (80, 99), "prefill_wgmma": (90, 90)}
LARGE = 0x7B
"""Byte of a workspace: large numbers, not NaN, as kernels compute again what is not finite."""
INTEGER_RANGE = {0: 2**15 - 1, 4: 127}
TILE = 128
PLAIN = OP.layouts[0].number


@pytest.fixture(scope="module", params=["emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> Iterator[Device]:
    yield Emulated() if request.param == "emulated" else Gpu()


def multiply(
    device: Device, problem: Problem, level: int = 0, kernel: str | None = None, layout: int = PLAIN
) -> np.ndarray:
    """Y by the named kernel, or by the one that the library chooses."""
    lowest, highest = CAPABILITIES.get(kernel or "", (80, 129))
    if not lowest <= device.capability <= highest:
        pytest.skip(f"{kernel} needs a compute capability of {lowest} to {highest}, got {device.capability}")
    form = {"K": problem.K, "group_size": problem.group_size, "levels": problem.levels, "accuracy_level": level}
    form["layout"] = layout
    rows, x_type = len(problem.x), X_TYPES[problem.x.dtype]
    y = np.full((rows, problem.N), np.nan, problem.x.dtype)
    with CudaWeight(device.library, problem.planes, problem.scales, **form) as weight:
        needed_bytes = weight.workspace(x_type, rows, kernel)
        x, out = device.array(problem.x), device.array(y)
        workspace = device.array(np.full(needed_bytes, LARGE, np.uint8))
        weight.multiply(
            device.address(x),
            x_type,
            rows,
            device.address(out),
            workspace=device.address(workspace),
            workspace_bytes=needed_bytes,
            kernel=kernel,
        )
        device.read(workspace, np.empty(needed_bytes, np.uint8))
        return device.read(out, y)


def integer_bound(problem: Problem, level: int) -> np.ndarray:
    """What the kernels for few rows may differ by before rounding to the result's type, [M, N]."""
    inputs = -(-problem.K // TILE) * TILE
    x = np.zeros((len(problem.x), inputs))
    x[:, : problem.K] = problem.x
    largest = np.abs(x).reshape(len(x), -1, TILE).max(axis=2)
    integers = INTEGER_RANGE[level]
    steps = np.where(largest < 1e-30, largest, largest / integers * (0.5 + 4 * EPS * integers))
    of_tile = np.abs(weights(problem, inputs)).reshape(problem.N, -1, TILE).sum(axis=2)
    return steps @ of_tile.T + 2 * problem.float_error()


def halves_bound(problem: Problem, level: int) -> np.ndarray:
    """What the kernels for many rows may differ by before rounding to the result's type, [M, N]."""
    magnitudes = np.abs(np.asarray(problem.x, np.float64))
    input_error = 2.0**-11 if problem.x.dtype == np.float32 and level == 4 else 2.0**-21
    relative = 2 * 2.0**-11 + input_error + (problem.K / 16 + 32) * 2.0**-23
    # Halves have no smaller step than 2^-24: of a weight's one to three roundings, and of inputs far below the largest.
    of_weights = 3 * 2.0**-25 * magnitudes.sum(axis=1, keepdims=True)
    dense = np.abs(weights(problem, problem.K)).sum(axis=1)
    of_inputs = magnitudes.max(axis=1, keepdims=True) * 2.0**-39 * dense
    return relative * problem.terms() + of_weights + of_inputs


def weights(problem: Problem, inputs: int) -> np.ndarray:
    """The effective weight, offset included, padded to [N, inputs]."""
    scales = problem.free_scales.astype(np.float32)
    bits = problem.planes[:, :, : padded_k(problem.K, problem.group_size) // 8]
    dense = np.zeros((problem.N, inputs))
    dense[:, : problem.K] = dequantize(bits, scales, problem.K, problem.group_size)
    return dense


def assert_product(y: np.ndarray, problem: Problem, level: int, kernel: str) -> None:
    bound = integer_bound if kernel.startswith("decode") else halves_bound
    assert_close(y, problem, bound(problem, level))


def _problem(draw, kernel: str) -> Problem:
    K = draw(st.integers(1, 700), label="K")
    group_size = 32 * draw(st.integers(1, padded_k(K, 32) // 32), label="G/32")
    planes, offset = draw(st.integers(1, 4), label="P"), draw(st.booleans(), label="offset")
    levels = FREE
    if draw(st.booleans(), label="even"):
        levels = Levels(True, 0 if offset else draw(zero_points(planes), label="twice_zero"))
    one_step = levels.even and not levels.group_zeros and group_size >= K and draw(st.booleans(), label="one step")
    return make_problem(
        M=draw(st.sampled_from(KERNELS[kernel]), label="M"),
        K=K,
        N=draw(st.integers(1, 140), label="N"),
        group_size=group_size,
        planes=planes,
        offset=offset,
        x_type=draw(st.sampled_from([np.float32, np.float16, BFLOAT16]), label="X"),
        scale_type=draw(st.sampled_from(ALL_SCALE_TYPES), label="scales"),
        levels=levels,
        per_tensor=one_step,
        seed=draw(st.integers(0, 2**32 - 1), label="seed"),
    )


@pytest.mark.parametrize("kernel", KERNELS)
@given(data=st.data(), level=st.sampled_from([0, 4]))
def test_every_kernel_gives_the_reference(device, kernel, data, level):
    problem = _problem(data.draw, kernel)
    assert_product(multiply(device, problem, level, kernel), problem, level, kernel)


@pytest.mark.parametrize(
    "group_size",
    [32, 160, 4096, *(pytest.param(size, marks=pytest.mark.slow) for size in (64, 96, 128))],  # 160: over a tile's end
)
@pytest.mark.parametrize("kernel", KERNELS)
def test_groups_of_any_size_in_a_weight_of_real_length(device, kernel, group_size):
    # 4096 inputs and four row tiles for each of the emulation's blocks.
    problem = make_problem(
        M=KERNELS[kernel][1], K=4096, N=400, group_size=group_size, offset=True, x_type=np.float16, seed=group_size
    )
    assert_product(multiply(device, problem, 0, kernel), problem, 0, kernel)


@pytest.mark.parametrize(
    ("kernel", "rows", "K"), [("decode_b1", 1, 40000), ("decode_b1", 4, 9000), ("decode_s8", 16, 9000)]
)
@pytest.mark.parametrize("planes", [1, 4])
def test_activations_that_do_not_fit_shared_memory(device, kernel, rows, K, planes):
    problem = make_problem(
        M=rows, K=K, N=48, group_size=32, planes=planes, offset=True, x_type=np.float16, scale_type=np.float32
    )
    assert_product(multiply(device, problem, 0, kernel), problem, 0, kernel)


@pytest.mark.parametrize("x_type", [np.float32, np.float16])
@pytest.mark.parametrize("kernel", ["decode_b1", "decode_s8"])
def test_activations_at_an_address_that_is_aligned_for_one_element(device, kernel, x_type):
    problem = make_problem(M=1, K=256, N=48, x_type=x_type)
    shifted = np.concatenate([np.zeros(1, x_type), problem.x[0]])
    y = np.full((1, problem.N), np.nan, x_type)
    with CudaWeight(device.library, problem.planes, problem.scales, K=256, group_size=64) as weight:
        needed = weight.workspace(X_TYPES[y.dtype], 1, kernel)
        x, out, workspace = (device.array(each) for each in (shifted, y, np.zeros(needed, np.uint8)))
        weight.multiply(
            device.address(x) + shifted.itemsize,
            X_TYPES[y.dtype],
            1,
            device.address(out),
            workspace=device.address(workspace),
            workspace_bytes=needed,
            kernel=kernel,
        )
        assert_product(device.read(out, y), problem, 0, kernel)


SPECIAL = {"decode_b1": (2, np.float32), "decode_s8": (6, BFLOAT16), "prefill_mma": (20, np.float16)}
"""Rows, and the type of X; the other types are slow."""


@pytest.mark.parametrize(
    ("kernel", "rows", "x_type"),
    [
        pytest.param(kernel, rows, x_type, marks=[] if x_type is usual else pytest.mark.slow)
        for kernel, (rows, usual) in SPECIAL.items()
        for x_type in (np.float32, np.float16, BFLOAT16)
    ],
)
@given(
    place=st.integers(0, 319),
    value=st.sampled_from([np.nan, np.inf, -np.inf, 6e4, 1e-6]),
    levels=st.sampled_from([FREE, Levels(True), Levels(True, 3), Levels(True, GROUP_ZEROS)]),
)
def test_special_values_are_those_of_the_reference(device, kernel, rows, x_type, place, value, levels):
    problem = make_problem(M=rows, K=320, N=40, x_type=x_type, levels=levels)
    problem.x[1, place] = value
    with np.errstate(invalid="ignore", over="ignore"):
        usual = make_problem(M=rows, K=320, N=40, x_type=x_type, levels=levels)
        usual.x[1, place] = value if np.isfinite(value) else 0
        bound = (integer_bound if kernel.startswith("decode") else halves_bound)(usual, 0)
        assert_close(multiply(device, problem, 0, kernel), problem, bound)


@pytest.mark.parametrize(("kernel", "rows"), [("prefill_mma", 20), ("prefill_wgmma", 70)])
def test_float32_keeps_more_than_a_half_of_its_bits_at_level_0(device, kernel, rows):
    # One plane with a power of two as its scale, so that no weight is rounded: what is left is the rounding of X.
    problem = make_problem(M=rows, K=256, N=48, planes=1)
    problem.scales[:] = 0.25
    y = multiply(device, problem, 0, kernel)
    assert_close(y, problem, (2.0**-21 + (problem.K / 16 + 32) * 2.0**-23) * problem.terms())


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_largest_floats_do_not_overflow_on_the_way(device, kernel):
    problem = make_problem(M=2, K=256, N=33, group_size=32)
    problem.x[:] *= np.float32(1e37)
    problem.scales[:] = np.float16(0.01)
    y = multiply(device, problem, 0, kernel)
    assert np.isfinite(y).all()
    assert_product(y, problem, 0, kernel)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("levels", "offset"), [(Levels(True, 15), False), (Levels(True, GROUP_ZEROS), False), (Levels(True), True)]
)
def test_steps_whose_levels_float32_cannot_hold(device, kernel, levels, offset):
    # 8 times the step is infinite; the results are not.
    form = {"planes": 4, "offset": offset, "group_size": 32, "scale_type": np.float32, "levels": levels}
    problem = make_problem(M=2, K=64, N=20, **form)
    problem.scales[:] = 1e38
    problem.x[:] *= np.float32(1e-8)
    y = multiply(device, problem, 0, kernel)
    assert np.isfinite(y).all()
    assert_close(y, problem, 0)  # in double precision


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_same_call_gives_the_same_bits(device, kernel):
    problem = make_problem(M=KERNELS[kernel][-1], K=1000, N=200, group_size=96, planes=3, offset=True)
    np.testing.assert_array_equal(multiply(device, problem, 0, kernel), multiply(device, problem, 0, kernel))


@pytest.mark.parametrize(
    ("capability", "names"),
    [
        (80, {1: "decode_b1", 4: "decode_b1", 5: "decode_s8", 16: "decode_s8", 17: "prefill_mma", 512: "prefill_mma"}),
        # Blocks of wgmma for 128 tokens have to be enough for the two multiprocessors of the emulation.
        (90, {1: "decode_b1", 5: "decode_s8", 17: "prefill_mma", 128: "prefill_mma", 129: "prefill_wgmma"}),
        (120, {1: "decode_s8", 16: "decode_s8", 17: "prefill_mma", 2048: "prefill_mma"}),
    ],
)
def test_the_choice_follows_rows_and_architecture(monkeypatch, capability, names):
    monkeypatch.setenv("DUALBINARY_CUDA_EMULATED_CAPABILITY", str(capability))
    problem = make_problem(K=256, N=48)
    with CudaWeight(emulated_library(), problem.planes, problem.scales, K=256, group_size=64) as weight:
        assert {rows: weight.kernel("float16", rows) for rows in names} == names


@pytest.mark.parametrize("capability", [80, 90, 120])
@pytest.mark.parametrize("rows", [1, 5, 17, 129])
def test_what_is_chosen_gives_the_reference(monkeypatch, capability, rows):
    monkeypatch.setenv("DUALBINARY_CUDA_EMULATED_CAPABILITY", str(capability))
    problem = make_problem(M=rows, K=256, N=48, x_type=np.float16)
    kernel = "decode_b1" if rows < 17 else "prefill_mma"
    assert_product(multiply(Emulated(capability), problem), problem, 0, kernel)


def test_a_float16_row_of_odd_length_is_copied_to_the_workspace(device):
    problem = make_problem(M=20, K=257, N=48, group_size=32, x_type=np.float16)
    with CudaWeight(device.library, problem.planes, problem.scales, K=257, group_size=32) as weight:
        assert weight.workspace("float16", 20) > 0
    assert_product(multiply(device, problem), problem, 0, "prefill_mma")


def test_an_aligned_float16_matrix_needs_no_workspace():
    problem = make_problem(K=256, N=48)
    with CudaWeight(emulated_library(), problem.planes, problem.scales, K=256, group_size=64) as weight:
        assert [weight.workspace("float16", rows) for rows in (0, 1, 17, 500)] == [0] * 4


def test_the_packed_weight_takes_two_bits_and_its_scales():
    problem = make_problem(K=4096, N=512, group_size=128)
    with CudaWeight(emulated_library(), problem.planes, problem.scales, K=4096, group_size=128) as weight:
        assert weight.nbytes / (4096 * 512) * 8 == pytest.approx(2.25, rel=1e-3)


@pytest.mark.parametrize(("planes", "group_size", "twice_zero", "bits"), [(2, 128, 2, 2.125), (4, 32, 16, 4.5)])
def test_a_packed_weight_of_even_levels_has_one_scale_a_group(planes, group_size, twice_zero, bits):
    form = {"K": 4096, "group_size": group_size, "levels": Levels(True, twice_zero)}
    problem = make_problem(N=512, planes=planes, **form)
    with CudaWeight(emulated_library(), problem.planes, problem.scales, **form) as weight:
        assert weight.nbytes / (4096 * 512) * 8 == pytest.approx(bits, rel=1e-3)


# The probe: A, B and D of each instruction.
SHAPES = {"mma_b1": (16, 8, 128), "mma_u8 signed": (16, 8, 32), "mma_u8 unsigned": (16, 8, 32), "mma_f16": (16, 8, 16)}
SHAPES["wgmma"] = (64, 128, 64)


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_every_matrix_instruction_multiplies_as_its_fragments_say(device, instruction):
    if (instruction == "mma_b1" and device.capability >= 100) or (instruction == "wgmma" and device.capability != 90):
        pytest.skip(f"compute capability {device.capability} has no {instruction}")
    rng = np.random.default_rng(0)
    rows, columns, K = SHAPES[instruction]
    if instruction == "mma_b1":
        a, b = rng.integers(0, 2, (rows, K), np.uint8), rng.integers(0, 2, (columns, K), np.uint8)
        stored = [np.packbits(matrix, axis=1, bitorder="little") for matrix in (a, b)]
    elif instruction.startswith("mma_u8"):
        a = rng.integers(0, 256, (rows, K)).astype(np.uint8)
        b = rng.integers(0, 256, (columns, K)).astype(np.uint8)
        b = b.view(np.int8) if instruction.endswith(" signed") else b
        stored = [a, b]
    else:
        # Integers, so that every order of the sums gives the same.
        a, b = (rng.integers(-8, 9, (n, K)).astype(np.float16) for n in (rows, columns))
        stored = [a, b]
    result_type = np.float32 if instruction in ("mma_f16", "wgmma") else np.int32
    d = np.full((rows, columns), -1, result_type)
    first, second, out = (device.array(array) for array in (*stored, d))
    probe(device, instruction, *(device.address(array) for array in (first, second, out)))
    expected = a.astype(np.int64) @ b.astype(np.int64).T
    np.testing.assert_array_equal(device.read(out, d), expected)


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("planes", [2, 4])
@pytest.mark.parametrize("twice_zero", [GROUP_ZEROS, 3])
def test_codes_give_the_products_of_layout_plain(device, twice_zero, planes, rows):
    problem = make_problem(M=rows, K=300, N=40, group_size=32, planes=planes, levels=Levels(True, twice_zero))
    y = multiply(device, in_codes(problem), layout=CODES)
    np.testing.assert_array_equal(y, multiply(device, problem))


def refusal(**changes) -> str:
    options = {"K": 256, "group_size": 64, "levels": FREE} | changes
    form = {key: options[key] for key in ("group_size", "levels")}
    problem = make_problem(K=256, N=48, planes=options.pop("planes", 2), **form)
    with pytest.raises(InputError) as caught:
        CudaWeight(emulated_library(), problem.planes, problem.scales, **options)
    return str(caught.value)


def test_a_weight_that_no_kernel_takes_is_refused_with_the_way_out():
    assert "1 to 4 on a CUDA device, got 5; use the CPU provider" in refusal(planes=5)
    message = "group_size: expected a multiple of 32 on a CUDA device, got 16; use the CPU provider"
    assert refusal(group_size=16, levels=Levels(True, 3)) == message
    assert "--layout plain" in refusal(layout=2)
    assert refusal(device=3) == "device: expected 0, got 3"
    assert "planes: expected" in refusal(K=512)


def test_a_device_that_is_too_old_is_refused(monkeypatch):
    monkeypatch.setenv("DUALBINARY_CUDA_EMULATED_CAPABILITY", "75")
    assert refusal() == "compute capability 7.5: the kernels need 8.0 or later"


def test_a_call_that_cannot_be_made_is_refused(monkeypatch):
    monkeypatch.setenv("DUALBINARY_CUDA_EMULATED_CAPABILITY", "89")
    problem = make_problem(M=20, K=256, N=48)
    x = np.zeros(20 * 256 + GUARD, np.float32)
    with CudaWeight(emulated_library(), problem.planes, problem.scales, K=256, group_size=64) as weight:

        def message(rows: int, **options) -> str:
            with pytest.raises(InputError) as caught:
                weight.multiply(x.ctypes.data, "float32", rows, x.ctypes.data, **options)
            return str(caught.value)

        assert "decode_b1 takes at most 4 rows, got 5" in message(5, kernel="decode_b1")
        assert "capabilities 90 to 90, the device has 89" in message(100, kernel="prefill_wgmma")
        assert "'fast' is unknown; there are decode_b1" in message(1, kernel="fast")
        assert "workspace: expected" in message(20)
        assert "multiple of 256" in message(20, workspace=x.ctypes.data // 256 * 256 + 16, workspace_bytes=1 << 20)
        assert "rows: expected" in message(-1)
        weight.multiply(0, "float32", 0, 0)  # nothing to do, so nothing is needed


def test_the_description_names_kernels_and_devices():
    found = describe(emulated_library())
    assert found["emulated"] is True
    assert [kernel["name"] for kernel in found["kernels"]] == ["decode_b1", "decode_s8", "prefill_wgmma", "prefill_mma"]
    assert found["devices"][0]["name"] == "emulated"
    assert found["error"] is None
