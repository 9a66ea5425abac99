"""Fallback functions compute the operator."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from onnx import TensorProto, helper, numpy_helper

from dualbinary import OP, InputError, dual_binary_matmul, pack_planes
from dualbinary.contract.code_layout import CODE_PLANES
from dualbinary.contract.scale_codes import BFLOAT16, round_scales, scale_values
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat, PlaneWeight
from dualbinary.onnx_files.functions import own_layout, replace_unpacking
from exporter.graph.fallback_function import fallback_functions, function_domains
from exporter.graph.stock_forms import dequantize_stock, stock_form, stock_tensors
from exporter.graph.wide_product import Calls
from tests.support.even_cases import EvenCase, even_cases
from tests.support.random_weights import random_weight


@pytest.mark.parametrize("kind", ["ort4", "ort2", "standard"])
@pytest.mark.parametrize(("planes", "offset"), [(1, False), (2, False), (2, True), (3, True), (8, False)])
@pytest.mark.parametrize(
    ("group_size", "k"), [(32, 96), (64, 160), (96, 250), (128, 128), (160, 160), (256, 300), (512, 600)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_fallback_function_is_the_op(kind, planes, offset, group_size, k, dtype):
    assert_function_is_the_op(kind, planes, offset, group_size, k, dtype, coded=False)


@pytest.mark.parametrize("kind", ["ort4", "ort2", "standard"])
@pytest.mark.parametrize(("planes", "offset", "group_size", "k"), [(1, False, 64, 160), (2, True, 96, 250)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_fallback_function_of_coded_scales_is_the_op(kind, planes, offset, group_size, k, dtype):
    assert_function_is_the_op(kind, planes, offset, group_size, k, dtype, coded=True)


@pytest.mark.parametrize("kind", ["ort4", "ort2", "standard"])
@pytest.mark.parametrize(
    "plane_format",
    [
        PlaneFormat(2, 64, offset=True, scale_dtype=np.dtype(np.uint8)),
        PlaneFormat(4, 32, offset=True, levels="even"),
        PlaneFormat(8, 32, levels="even", zero=127.5),
    ],
)
def test_float_constants_are_tensors(kind, plane_format):
    """A tool that rewrites models makes doubles of value_float (findings/onnxslim_functions.sh)."""
    names = {attribute.name for node in single(kind, plane_format).node for attribute in node.attribute}
    assert "value" in names
    assert not names & {"value_float", "value_floats"}


def assert_function_is_the_op(kind, planes, offset, group_size, k, dtype, *, coded):
    rng = np.random.default_rng(0)
    n = 10
    packed = pack_planes(rng.integers(0, 2, (planes, n, k)), group_size)
    values = rng.normal(size=(planes + offset, n, packed.shape[2] * 8 // group_size))
    scales = round_scales(values) if coded else values.astype(np.float16)
    x = rng.normal(size=(2, 3, k)).astype(dtype)
    plane_format = PlaneFormat(planes, group_size, offset, scale_dtype=scales.dtype)
    function = single(kind, plane_format)

    y = run(function, x, packed, scales, K=k, N=n, group_size=group_size)

    expected = dual_binary_matmul(x, packed, scales, K=k, N=n, group_size=group_size)
    # Sums of K terms in float32, or in float16 where the runtime multiplies so: K * eps is the worst case, its square
    # root the usual one. The planes' sums are each rounded to the type of X once more.
    tolerance = 4 * np.sqrt(k * planes) * float(np.finfo(dtype).eps)
    assert np.linalg.norm(y - expected) <= tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize("kind", ["ort4", "ort2", "standard"])
def test_fallback_function_knows_every_factor_and_every_code(kind):
    factors = np.arange(2**16, dtype="<u2").view(np.float16)
    factors = factors[np.isfinite(factors)]
    codes = (np.arange(len(factors)) * 37 % 256).astype(np.uint8)  # neighbors differ, each beside many factors
    scales = np.concatenate([factors.view(np.uint8).reshape(-1, 2), codes[:, None]], axis=1)[None]
    packed = np.full((1, len(factors), 4), [1, 0, 0, 0], np.uint8)  # the first input alone
    function = single(kind, PlaneFormat(1, 32, scale_dtype=scales.dtype))

    y = run(function, np.eye(1, 32, dtype=np.float32), packed, scales, K=32, N=len(factors), group_size=32)

    np.testing.assert_array_equal(y[0], factors.astype(np.float64) * (codes.astype(np.float64) - 128) / 128)


@pytest.mark.parametrize(("kind", "largest"), [("ort4", 256), ("ort2", 128)])
@pytest.mark.parametrize("group_size", [32, 64, 96, 128, 256, 512])
def test_quantization_blocks_have_a_size_with_a_fast_kernel(kind, largest, group_size):
    function = single(kind, PlaneFormat(2, group_size))

    products = [node for node in function.node if node.op_type == "MatMulNBits"]
    (block,) = {(a.i, a.ref_attr_name) for node in products for a in node.attribute if a.name == "block_size"}

    by_group = group_size in (32, 64, 128, 256) and group_size <= largest
    assert block == ((0, "group_size") if by_group else (32, ""))


def single(kind, plane_format, level=0):
    (function,) = fallback_functions(kind, [plane_format], 21, level)
    return ir.to_proto(function)


def run(function, x, planes, scales, **attributes):
    weight = OP.domain, [planes, scales], {"layout": 1, "accuracy_level": 0} | attributes
    return run_nodes([function], x, [weight])[0]


def run_nodes(functions, x, weights):
    """Products of X with weights, which are a domain, planes and scales, and attributes."""
    nodes, tensors, outputs = [], [], []
    element = helper.np_dtype_to_tensor_dtype(x.dtype)
    assert element in (TensorProto.FLOAT, TensorProto.FLOAT16)
    for index, (domain, arrays, attributes) in enumerate(weights):
        names = [f"{name}{index}" for name in ("planes", "scales")]
        tensors += [numpy_helper.from_array(array, name) for array, name in zip(arrays, names, strict=True)]
        if arrays[1].dtype == BFLOAT16:
            tensors[-1].data_type = TensorProto.BFLOAT16
        nodes.append(helper.make_node(OP.name, ["X", *names], [f"Y{index}"], domain=domain, **attributes))
        shape = [*x.shape[:-1], attributes["N"]]
        outputs.append(helper.make_tensor_value_info(f"Y{index}", element, shape))
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("X", element, x.shape)], outputs, tensors)
    opsets = [helper.make_opsetid(d, v) for d, v in (("", 21), ("com.microsoft", 1))]
    opsets += [helper.make_opsetid(domain, OP.version) for domain in {domain for domain, _, _ in weights}]
    model = helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value).astype(np.float64) for value in session.run(None, {"X": x})]


def node_of(weight, level, domain=OP.domain):
    form = weight.format
    attributes = {
        "K": weight.K,
        "N": weight.N,
        "group_size": form.group_size,
        "layout": OP.layout_named(form.layout).number,
        "accuracy_level": level,
    }
    if form.even:
        attributes |= {"levels": 1, "twice_zero": form.node_levels.twice_zero}
    return domain, [weight.planes, weight.scales], attributes


def reference(x, weight):
    form = weight.format
    sizes = {"K": weight.K, "N": weight.N, "group_size": form.group_size, "levels": form.node_levels}
    return dual_binary_matmul(x, weight.planes, weight.scales, **sizes)


def distance(y, weight, x):
    """Relative to what all terms of an output could sum up to."""
    largest = np.abs(scale_values(weight.scales)).max() * 2**weight.format.planes
    return np.abs(y - reference(x, weight)).max() / (np.abs(x).sum(axis=-1).max() * largest)


# Sums in float32, where an offset takes away what the product had too much; and activations of int8, which are off by
# 1/254 of the largest in a block at most.
TOLERANCE = {0: 1e-6, 4: 1 / 127}


def tolerance(case):
    """At level 0 numbers of more than 4 bits are multiplied with X = H + L, of which L is rounded.

    In a group whose largest input is m, |L| <= m / 254, and what is lost of it at most 1/254 of its own largest: each
    of G inputs is off by m / 254^2.
    """
    form = case.weight.format
    if case.level or form.planes <= 4:
        return TOLERANCE[case.level]
    lack = form.groups(case.weight.K) * form.group_size - case.weight.K
    x = np.pad(np.abs(case.x), ((0, 0), (0, lack))).reshape(len(case.x), -1, form.group_size)
    lost = form.group_size * x.max(axis=2).sum(axis=1).max() / 254**2
    return TOLERANCE[0] + lost / x.sum(axis=(1, 2)).max()


@pytest.mark.parametrize("kind", ["ort4", "standard"])
@given(case=even_cases())
@settings(max_examples=60)
def test_fallback_function_of_even_levels_is_the_op(kind, case):
    weight, x, level = case.weight, case.x, case.level
    y = run_nodes([single(kind, weight.format, level)], x, [node_of(weight, level)])[0]
    assert distance(y, weight, x) <= (TOLERANCE[0] if kind == "standard" else tolerance(case))


@given(case=even_cases(planes=CODE_PLANES))
@settings(max_examples=60)
def test_fallback_function_of_codes_is_the_op(case):
    codes, x, level = case.weight.to_layout("codes"), case.x, case.level
    y = run_nodes([single("ort4", codes.format, level)], x, [node_of(codes, level)])[0]
    assert distance(y, case.weight, x) <= tolerance(case)


@pytest.mark.parametrize("layout", ["avx2", "plain"])
@given(case=even_cases(planes=CODE_PLANES))
@settings(max_examples=20)
def test_a_function_that_computes_of_codes_reads_other_layouts_too(layout, case):
    codes, other = (case.weight.to_layout(name) for name in ("codes", layout))
    function = single("ort4", codes.format)
    y = run_nodes([function], case.x, [node_of(codes, 0)])[0]
    replace_unpacking(function, other.format)
    assert own_layout(function) == "codes"
    same = run_nodes([function], case.x, [node_of(other, 0)])[0]
    np.testing.assert_array_equal(same, y)


def test_the_stock_operator_reads_the_bytes_of_codes_as_they_are_stored():
    for form in (PlaneFormat(4, 32, offset=True, levels="even"), PlaneFormat(4, 128, levels="even", zero=8.0)):
        nodes = single("ort4", replace(form, layout="codes")).node
        made = {name: node for node in nodes for name in node.output}
        (product,) = [node for node in nodes if node.op_type == "MatMulNBits"]
        value = product.input[1]
        while value != "codes":
            assert made[value].op_type in ("Identity", "Reshape")
            value = made[value].input[0]


@pytest.mark.parametrize("layout", ["avx512", "neon"])
@given(case=even_cases())
@settings(max_examples=30)
def test_blocks_of_even_levels_give_what_plain_gives(layout, case):
    blocks = case.weight.to_layout(layout)
    y, same = (
        run_nodes([single("ort4", each.format)], case.x, [node_of(each, 0)])[0] for each in (case.weight, blocks)
    )
    np.testing.assert_array_equal(same, y)


@given(case=even_cases())
@settings(max_examples=60)
def test_tensors_of_the_stock_form_are_the_weight(case):
    stock = stock_form(case.weight.format, case.level)
    weight = dequantize_stock(stock_tensors(case.weight, stock), stock, case.weight.K)
    expected = case.weight.dequantize()
    assert np.abs(weight - expected).max() <= 1e-6 * 2**case.weight.format.planes * np.abs(expected).max()


def even_weight(form, rng, N=6, K=100):
    form = form.for_inputs(K)
    q = rng.integers(0, 2**form.planes, (N, K))
    return PlaneWeight.pack_even(q, rng.uniform(0.5, 1, (form.scale_rows, N, form.groups(K))).astype(np.float16), form)


def test_every_even_product_is_one_node_of_its_own_width():
    expected = {  # planes, zero, level: bits and block size for groups of 128
        (1, 0.5, 4): 2, (2, 1, 4): 2, (2, 1.5, 4): 4, (2, 1, 0): 4, (3, 3.5, 4): 4, (4, 8, 4): 4, (4, 8, 0): 4,
        (5, 16, 4): 8, (8, 128, 4): 8,
    }  # fmt: skip
    for (planes, zero, level), bits in expected.items():
        form = PlaneFormat(planes, 128, levels="even", zero=float(zero))
        products = [n for n in single("ort4", form, level).node if n.op_type == "MatMulNBits"]
        numbers = {a.name: a.i for a in products[0].attribute}
        assert (len(products), numbers["bits"], numbers["block_size"]) == (1, bits, 128), form


def test_numbers_of_8_bits_are_read_once_at_level_0_too():
    function = single("ort4", PlaneFormat(8, 128, levels="even", zero=128.0, layout="codes"), 0)
    (product,) = [n for n in function.node if n.op_type == "MatMulNBits"]
    made = {name: node for node in function.node for name in node.output}
    value = product.input[1]
    while value != "codes":
        assert made[value].op_type in ("Identity", "Reshape")
        value = made[value].input[0]
    assert {a.name: a.i for a in product.attribute if a.name in ("bits", "accuracy_level")} == {
        "bits": 8,
        "accuracy_level": 4,  # of rows that it rounds without a loss, and of what these lack
    }


def test_nodes_of_several_formats_each_get_their_function():
    rng = np.random.default_rng(3)
    forms = [PlaneFormat(2, 32, levels="even", zero=1.0), PlaneFormat(4, 64, levels="even", zero=8.0)]
    weights = [even_weight(form, rng) for form in forms]
    bits = rng.integers(0, 2, (3, 6, 100))
    weights.append(PlaneWeight.pack(bits, rng.uniform(0.5, 1, (3, 6, 4)).astype(np.float16), 32))
    domains = function_domains(weight.format for weight in weights)
    functions = [ir.to_proto(f) for f in fallback_functions("ort4", [weight.format for weight in weights], 21)]
    assert [f.domain for f in functions] == list(domains.values()) == list(OP.domain_names[:3])
    x = rng.normal(size=(2, 100)).astype(np.float32)

    ys = run_nodes(functions, x, [node_of(weight, 0, domains[weight.format]) for weight in weights])

    for y, weight in zip(ys, weights, strict=True):
        assert distance(y, weight, x) <= TOLERANCE[0]


@pytest.mark.parametrize("planes", [4, 8])
@pytest.mark.parametrize("level", [0, 4])
def test_functions_of_decoders_have_no_node_that_shapes_of_sequences_make_needless(planes, level):
    rng = np.random.default_rng(5)
    weight = even_weight(PlaneFormat(planes, 32, offset=True, levels="even"), rng, K=96).to_layout("codes")
    (function,) = fallback_functions("ort4", [weight.format], 21, level, Calls(sequences=True, whole=True))
    proto = ir.to_proto(function)
    x = rng.normal(size=(2, 3, 96)).astype(np.float32)

    y = run_nodes([proto], x, [node_of(weight, level)])[0]

    plain = weight.to_layout("plain")
    assert distance(y, plain, x) <= tolerance(EvenCase(plain, x.reshape(6, 96), level))
    used = {node.op_type for node in proto.node}
    assert "Pad" not in used
    assert ("Shape" in used) == (planes == 8 and level == 0)  # whose rows are of any number of dimensions


FORMS = [
    PlaneFormat(2, 32, False),
    PlaneFormat(2, 32, True),
    PlaneFormat(4, 32, levels="even", zero=8.0),
    PlaneFormat(4, 32, levels="even", zero=EACH_GROUP),
    PlaneFormat(4, 32, levels="even", offset=True),
    PlaneFormat(8, 32, levels="even", zero=128.0),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("value", [np.nan, np.inf, pytest.param(-np.inf, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("kind", "level"), [("ort4", 0), ("ort4", 4), ("ort2", 4), ("standard", 0)])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_row_that_is_not_finite_is_none_and_leaves_others_alone(form, kind, level, value, dtype):
    if form.even and kind == "ort2":
        pytest.skip("even levels have the width of their numbers")
    rng = np.random.default_rng(0)
    weight = random_weight(rng, 10, 90, form.for_inputs(90))
    function, node = single(kind, weight.format, level), node_of(weight, level)
    x = rng.normal(size=(3, 90)).astype(dtype)
    special = x.copy()
    special[1, 40] = value

    usual, found = (run_nodes([function], each, [node])[0] for each in (x, special))

    assert not np.isfinite(found[1]).any()
    np.testing.assert_array_equal(found[[0, 2]], usual[[0, 2]])


def test_more_formats_than_domains_are_refused():
    forms = [PlaneFormat(4, 32, levels="even", zero=float(zero)) for zero in range(OP.domains)]
    assert set(function_domains(forms).values()) == set(OP.domain_names)
    with pytest.raises(InputError, match=f"need {OP.domains + 1} fallback functions.* {OP.domains}; .*--fallback none"):
        function_domains([*forms, PlaneFormat(2, 32)])


def test_free_formats_of_several_group_sizes_share_a_function():
    domains = function_domains([PlaneFormat(2, 32), PlaneFormat(2, 64, scale_dtype=np.dtype(np.float32))])
    assert set(domains.values()) == {OP.domain}
