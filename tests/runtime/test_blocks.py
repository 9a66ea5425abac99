"""DualBinaryMlp and DualBinaryAttention inside ONNX Runtime, against the reference."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import runtime_ext
from dualbinary import ATTENTION, MLP
from dualbinary.contract.golden import blocks as golden
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat
from tests.support.blocks import EVEN, BlockCase, attention_case, mlp_case
from tests.support.sessions import open_session

ISAS = list(dict.fromkeys(k["isa"] for k in runtime_ext.describe()["kernels"] if k["available"] and k["isa"] != "i8mm"))

# Activations of a product keep 15 bits in each group (2^-15 of its largest, at worst), of two products in a row, whose
# sums average it; norms and residual sums are float32. Attention alone rounds in float32.
PRODUCTS = 6e-4
FLOATS = 6e-6
CACHES = ("key", "value")
HALF = 2e-3  # results of float16, rounded once, and keys and values of that type
LEVEL4 = 6e-2  # 8 bits of activations, see kernel.h: 8e-3 of a product, through an activation and another one

each_isa = pytest.mark.parametrize("isa", ISAS)


@pytest.fixture(autouse=True)
def _isa(request, monkeypatch):
    isa = request.node.callspec.params.get("isa") if hasattr(request.node, "callspec") else None
    if isa is not None:
        monkeypatch.setenv("DUALBINARY_ISA", isa)


def compute(case: BlockCase, threads: int = 1) -> list[np.ndarray]:
    return [np.asarray(each) for each in open_session(case.model(), threads).run(None, case.inputs)]


def assert_y(case: BlockCase, y: np.ndarray, bound: float) -> None:
    assert y.dtype == case.inputs["X"].dtype
    assert y.shape == case.expected[0].shape
    if y.size:
        assert np.abs(y - case.expected[0]).max() <= bound * np.abs(case.expected[0]).max()


def bound_of(case: BlockCase) -> float:
    """The bound on Y of a case at level 0."""
    products = any(name.endswith("_planes") for name in case.constants)
    half = np.float16 in (case.inputs["X"].dtype, case.inputs.get("past_key", case.inputs["X"]).dtype)
    return (PRODUCTS if products else FLOATS) + (HALF if half else 0)


def check_attention(case: BlockCase, threads: int = 1) -> None:
    y, *present = compute(case, threads)
    int8 = present[0].dtype == np.int8
    products = "qkv_planes" in case.constants
    # A new key that the product rounds otherwise may become another number of an int8 cache.
    assert_y(case, y, bound_of(case) + (2e-2 if int8 and products else 0))
    for got, expected in zip(present, case.expected[1:], strict=True):
        assert got.shape == expected.shape
        D = case.attributes["head_size"]
        S = case.inputs["X"].shape[1]
        for row, before in enumerate(case.before):
            np.testing.assert_array_equal(got[row, :, :before], expected[row, :, :before])
            new = slice(before, before + S)
            a, b = (each[row, :, new, :D].astype(np.float64) for each in (got, expected))
            limit = 1 if int8 else (bound_of(case) * max(1, np.abs(b).max()))
            assert np.abs(a - b).max(initial=0) <= limit
            assert not got[row, :, before + S :].any()  # a buffer of its own has zeros there


def golden_case(case: dict[str, Any]) -> BlockCase:
    """A golden vector; tensors that a node may take as constants are such."""
    operator = {MLP.name: MLP, ATTENTION.name: ATTENTION}[case["operator"]]
    tensors, results = (
        {name: np.array(t["values"], t["type"]).reshape(t["shape"]) for name, t in case[kind].items()}
        for kind in ("inputs", "outputs")
    )
    given = ("X", "past_key", "past_value", "last_keys", "longest")
    inputs = {name: value for name, value in tensors.items() if name in given}
    constants = {name: value for name, value in tensors.items() if name not in given}
    before = inputs["last_keys"] + 1 - inputs["X"].shape[1] if "last_keys" in inputs else np.zeros(0, np.int32)
    return BlockCase(operator, case["attributes"], constants, inputs, list(results.values()), before.tolist())


@each_isa
@pytest.mark.parametrize("case", golden.load(), ids=lambda case: case["name"])
def test_golden_vectors_are_met(isa, case):
    found = golden_case(case)
    if found.operator is MLP:
        assert_y(found, compute(found)[0], bound_of(found))
    else:
        check_attention(found)


@each_isa
@pytest.mark.parametrize("activation", [0, 1, 2, 3])
@pytest.mark.parametrize("lead", [(1, 1), (5,), (2, 40)])
def test_mlp_computes_the_formula(isa, activation, lead):
    case = mlp_case(lead, activation=activation)
    assert_y(case, compute(case)[0], bound_of(case))


@each_isa
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    "parts", [{"norm": False}, {"bias": True}, {"post_norm": True}, {"bias": True, "post_norm": True}]
)
def test_mlp_with_and_without_its_parts(isa, dtype, parts):
    case = mlp_case((3,), 72, 56, dtype=dtype, **parts)
    assert_y(case, compute(case)[0], bound_of(case))


@given(
    H=st.integers(1, 200),
    I=st.integers(1, 200),
    rows=st.integers(0, 40),
    first=st.sampled_from([PlaneFormat(1, 32, True), EVEN, PlaneFormat(4, 32, levels="even", zero=EACH_GROUP)]),
    second=st.sampled_from([PlaneFormat(3, 32, False), PlaneFormat(8, 16, levels="even", zero=128)]),
    seed=st.integers(0, 9),
)
@settings(max_examples=25)
def test_mlp_of_any_shape(H, I, rows, first, second, seed):  # noqa: E741
    case = mlp_case((rows,), H, I, forms=(first, second), seed=seed, norm=bool(seed % 2))
    assert_y(case, compute(case)[0], bound_of(case))


@pytest.mark.parametrize("rows", [1, 33])
def test_level_4_rounds_activations_to_8_bits(rows):
    case = mlp_case((rows,), 256, 512, level=4)
    y = compute(case)[0]
    assert_y(case, y, LEVEL4)
    chosen = runtime_ext.describe()["chosen"]
    if chosen["4"] != chosen["0"]:  # a CPU without vector instructions has one kernel, which rounds nothing
        assert np.abs(y - case.expected[0]).max() > PRODUCTS * np.abs(case.expected[0]).max()


@each_isa
@pytest.mark.parametrize("cache", [np.float32, np.float16, np.int8])
@pytest.mark.parametrize(
    ("S", "before"), [(1, (5,)), (1, (9, 0, 3)), (4, (9, 2)), (20, (0,)), (20, (40, 7)), (1, (300,))]
)
def test_attention_computes_the_formula(isa, S, before, cache):
    check_attention(attention_case(S, before, max(before) + S + 2, cache=cache, products=False))


@each_isa
@pytest.mark.parametrize(
    "parts",
    [
        {"softcap": 20.0},
        {"window": 6},
        {"interleaved": 1},
        {"rotated": None},
        {"rotated": 4},
        {"head_norms": True},
        {"heads": (6, 1, 24), "rotated": 12},
        {"heads": (3, 3, 80), "rotated": 40},
        {"heads": (72, 1, 8), "rotated": 4},
        {"dtype": np.float16},
        {"dtype": np.float16, "cache": np.int8},
    ],
    ids=str,
)
@pytest.mark.parametrize(("S", "before"), [(2, (30, 3)), (40, (9,))])
def test_attention_of_every_kind(isa, parts, S, before):
    check_attention(attention_case(S, before, 80, products=False, **parts))


@each_isa
@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"norm": False},
        {"bias": True},
        {"post_norm": True, "bias": True, "head_norms": True},
        {"dtype": np.float16, "bias": True},
        {"cache": np.int8},
        {"H": 40},
    ],
    ids=str,
)
@pytest.mark.parametrize(("S", "before"), [(1, (7, 2)), (90, (0,))])
def test_attention_with_its_products(isa, parts, S, before):
    check_attention(attention_case(S, before, 100, **parts))


@given(
    S=st.integers(1, 70),
    before=st.lists(st.integers(0, 150), min_size=1, max_size=3),
    group=st.integers(1, 5),
    kv_heads=st.integers(1, 3),
    eighths=st.integers(1, 20),
    window=st.sampled_from([0, 0, 1, 17, 64]),
    cache=st.sampled_from([np.float32, np.float16, np.int8]),
    spare=st.integers(0, 9),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_attention_of_any_shape(S, before, group, kv_heads, eighths, window, cache, spare):
    heads = (group * kv_heads, kv_heads, 8 * eighths)
    room = max(before) + S + spare
    case = attention_case(
        S, tuple(before), room, heads=heads, products=False, rotated=eighths, window=window, cache=cache
    )
    if max(before) > 0:  # else all sequences begin, whatever last_keys says of padding
        check_attention(case)


def test_sequences_that_begin_may_have_padding_behind_their_tokens():
    case = attention_case(6, (0, 0), 8, products=False)
    case.inputs["last_keys"] = np.array([5, 2], np.int32)
    y = compute(case)[0]
    assert np.abs(y - case.expected[0]).max() < FLOATS * np.abs(case.expected[0]).max()


@pytest.mark.parametrize("past", [0, 5])
def test_a_cache_that_grows_has_room_for_the_new_tokens(past):
    case = attention_case(3, (past,), past, products=False)
    check_attention(case)
    assert compute(case)[1].shape[2] == past + 3


@pytest.mark.parametrize("shared", [("key", "value"), ("key",), ("value",)])
def test_past_and_present_may_be_one_buffer(shared):
    case = attention_case(2, (5, 1), 16)
    session = open_session(case.model())
    binding = session.io_binding()
    caches = {}
    for name, value in case.inputs.items():
        held = ort.OrtValue.ortvalue_from_numpy(value.copy())
        caches[name] = held
        binding.bind_ortvalue_input(name, held)
    binding.bind_output("Y")
    present = {kind: ort.OrtValue.ortvalue_from_numpy(np.full_like(case.inputs[f"past_{kind}"], 7)) for kind in CACHES}
    present |= {kind: caches[f"past_{kind}"] for kind in shared}
    for kind, held in present.items():
        binding.bind_ortvalue_output(f"present_{kind}", held)
    session.run_with_iobinding(binding)
    assert_y(case, binding.get_outputs()[0].numpy(), PRODUCTS)
    for kind, expected in zip(CACHES, case.expected[1:], strict=True):
        got = present[kind].numpy()
        for row, before in enumerate(case.before):
            used = slice(0, before + 2)
            assert np.abs(got[row, :, used] - expected[row, :, used]).max() < PRODUCTS * np.abs(expected).max()


@pytest.mark.parametrize("before", [(5, 2), (0, 0)])
@pytest.mark.parametrize("products", [False, True])
def test_a_call_without_new_tokens_keeps_the_cache(products, before):
    case = attention_case(1, before, 8, products=products)
    case.inputs["X"] = case.inputs["X"][:, :0]
    case.inputs["last_keys"] -= 1
    case.inputs["longest"] -= 1
    y, *present = compute(case)
    assert y.shape[:2] == (2, 0)
    for kind, got in zip(("key", "value"), present, strict=True):
        for row, before in enumerate(case.before):
            np.testing.assert_array_equal(got[row, :, :before], case.inputs[f"past_{kind}"][row, :, :before])
            assert not got[row, :, before:].any()


@pytest.mark.parametrize(
    "case",
    [mlp_case((70,), 192, 256), attention_case(70, (30,), 128), attention_case(1, (700,), 800)],
    ids=["m", "p", "d"],
)
def test_results_do_not_depend_on_threads(case):
    for one, other in zip(compute(case, 1), compute(case, 3), strict=True):
        np.testing.assert_array_equal(one, other)


def test_calls_may_come_at_once():
    case = mlp_case((4,), 192, 256)
    session = open_session(case.model(), 2)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: session.run(None, case.inputs)[0], range(24)))
    for y in results:
        np.testing.assert_array_equal(y, results[0])


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e30])
def test_rows_that_tables_cannot_hold_are_exact_or_no_numbers(value):
    case = mlp_case((3,), norm=False)
    case.inputs["X"][1, 5] = value
    y = compute(case)[0]
    others = [0, 2]
    assert np.abs(y[others] - case.expected[0][others]).max() < PRODUCTS * np.abs(case.expected[0]).max()
    assert not np.isfinite(y[1]).all()


def test_a_key_that_is_no_number_is_none_in_an_int8_cache():
    case = attention_case(1, (2,), 8, products=False, cache=np.int8, rotated=None)
    case.inputs["X"][..., 4 * 16] = np.nan
    assert np.isnan(compute(case)[0]).any()


WRONG_ATTENTION = {
    "longest: expected at most 9, the rows of cos_table, got 17": {
        "longest": np.array([17], np.int32),
        "last_keys": np.array([16], np.int32),
    },
    "longest: expected at least the 1 new tokens, got 0": {"longest": np.array([0], np.int32)},
    "longest: expected shape [1], got [0]": {"longest": np.zeros(0, np.int32)},
    "longest: expected shape [1], got [2]": {"longest": np.array([6, 6], np.int32)},
    "last_keys: expected 0 to 5, got -1": {"last_keys": np.array([-1], np.int32)},
    "last_keys: expected 0 to 5, got 6": {"last_keys": np.array([6], np.int32)},
    "last_keys: expected shape [1], got [2]": {"last_keys": np.array([5, 5], np.int32)},
    "past_value: expected shape [1, 2, 16, 16], got [1, 2, 15, 16]": {
        "past_value": np.zeros((1, 2, 15, 16), np.float32)
    },
    "past_key: expected shape [1, 2, ?, 16], got [1, 3, 16, 16]": {"past_key": np.zeros((1, 3, 16, 16), np.float32)},
    "X: expected shape [?, ?, 64], got [1, 1, 63]": {"X": np.zeros((1, 1, 63), np.float32)},
}


@pytest.mark.parametrize("message", WRONG_ATTENTION)
def test_a_call_that_does_not_fit_is_refused(message):
    case = attention_case(1, (5,), 16)
    case.inputs |= WRONG_ATTENTION[message]
    with pytest.raises(Exception, match="DualBinaryAttention node 'block': ") as error:
        compute(case)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_num_heads": 3}, "kv_num_heads: expected a divisor of num_heads = 4, got 3"),
        ({"head_size": 20}, "head_size: expected a multiple of 8 up to 512, got 20"),
        ({"head_size": 0}, "head_size: expected 8 to "),
        ({"num_heads": 1 << 40}, "num_heads: expected 1 to "),
        ({"local_window_size": -2}, "local_window_size: expected 0 or more, got -2"),
        ({"rotary_interleaved": 2}, "rotary_interleaved: expected 0 or 1, got 2"),
        ({"qkv_group_size": 33}, "qkv: group_size: expected"),
        ({"o_layout": 99}, "o: layout: expected"),
        ({"scale": None}, "attribute scale is missing"),
        ({"scale": 1}, "attribute scale: expected a number, got another type"),
        ({"hidden_size": None}, "attribute hidden_size is missing"),
        ({"hidden_size": 96}, "qkv: planes: expected shape [2, 128, 12], got [2, 128, 8]"),
    ],
)
def test_a_node_that_does_not_fit_is_refused(change, message):
    case = attention_case()
    case.attributes = {k: v for k, v in (case.attributes | change).items() if v is not None}
    with pytest.raises(Exception, match="DualBinaryAttention") as error:
        compute(case)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": 4}, "activation: expected 0 to 3, got 4"),
        ({"intermediate_size": (1 << 31) - 1}, "intermediate_size: expected at most"),
        ({"intermediate_size": 32}, "gate_up: planes: expected shape [2, 64, 8], got [2, 192, 8]"),
        ({"down_accuracy_level": 3}, "down: accuracy_level: expected"),
    ],
)
def test_a_mlp_node_that_does_not_fit_is_refused(change, message):
    case = mlp_case()
    case.attributes |= change
    with pytest.raises(Exception, match="DualBinaryMlp") as error:
        compute(case)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["norm_weight", "gate_up_bias"])
def test_a_vector_of_another_size_is_refused(name):
    case = mlp_case(bias=True)
    case.constants[name] = np.zeros(5, np.float32)
    with pytest.raises(Exception, match=rf"{name}: expected shape \[\d+\], got \[5\]"):
        compute(case)


def test_half_of_the_products_is_refused():
    case = attention_case()
    del case.constants["o_planes"], case.constants["o_scales"]
    with pytest.raises(Exception, match="qkv_planes and o_planes: expected both or neither"):
        compute(case)


def test_a_norm_weight_that_is_computed_is_read_at_each_call():
    case = mlp_case((2,))
    case.inputs["norm_weight"] = case.constants.pop("norm_weight")
    assert_y(case, compute(case)[0], PRODUCTS)
