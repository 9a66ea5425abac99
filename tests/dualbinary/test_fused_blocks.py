"""Nodes become blocks and blocks nodes again, and the model computes the same."""

from copy import deepcopy

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dualbinary import ATTENTION, MLP, OP, InputError
from dualbinary.contract.blocks import int8_rows
from dualbinary.contract.weight import PlaneFormat
from dualbinary.onnx_files.blocks import fuse_blocks, has_blocks, unfuse_blocks
from dualbinary.onnx_files.int8_rows import FROM_INT8, TO_INT8, rows_from_int8, rows_to_int8
from tests.support.random_weights import random_weight
from tests.support.sessions import open_session

H, WIDE = 64, 96
HEADS, KV_HEADS, SIZE = 4, 2, 16
FORM = PlaneFormat(2, 32, False)
CACHES = {"float": TensorProto.FLOAT, "half": TensorProto.FLOAT16, "int8": TensorProto.INT8}


class Layers:
    """A model of decoder layers, made node by node as the exporter makes it."""

    def __init__(
        self, *, activation: str = "silu", bias: bool = False, head_norms: bool = False, cache: str = "float"
    ) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.caches: list[str] = []
        self.activation, self.bias, self.head_norms, self.cache = activation, bias, head_norms, cache

    def constant(self, name: str, values: np.ndarray) -> str:
        if name not in {tensor.name for tensor in self.initializers}:
            self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def add(self, op: str, inputs: list[str], outputs: list[str] | str, domain: str = "", **attributes) -> str:
        outputs = [outputs] if isinstance(outputs, str) else outputs
        self.nodes.append(helper.make_node(op, inputs, outputs, name=outputs[0], domain=domain, **attributes))
        return outputs[0]

    def product(self, name: str, x: str, N: int, K: int) -> str:
        weight = random_weight(self.rng, N, K, FORM)
        inputs = [x, self.constant(f"{name}.planes", weight.planes), self.constant(f"{name}.scales", weight.scales)]
        sizes = {"K": K, "N": N, "group_size": 32, "layout": 1, "accuracy_level": 0}
        y = self.add(OP.name, inputs, f"{name}.out", OP.domain, **sizes)
        if not self.bias:
            return y
        return self.add("Add", [y, self.constant(f"{name}.bias", self.vector(N))], f"{name}.biased")

    def vector(self, size: int) -> np.ndarray:
        return (1 + self.rng.normal(0, 0.1, size)).astype(np.float32)

    def norm(self, name: str, x: str, size: int = H) -> str:
        weight = self.constant(f"{name}.weight", self.vector(size))
        return self.add("RMSNormalization", [x, weight], f"{name}.out", axis=-1, epsilon=1e-5)

    def skip_norm(self, name: str, x: str, branch: str) -> tuple[str, str]:
        weight = self.constant(f"{name}.weight", self.vector(H))
        outputs = [f"{name}.out", "", "", f"{name}.sum"]
        self.add("SkipSimplifiedLayerNormalization", [x, branch, weight], outputs, "com.microsoft", epsilon=1e-5)
        return outputs[0], outputs[3]

    def attention(self, name: str, normed: str) -> str:
        width = (HEADS + 2 * KV_HEADS) * SIZE
        joined = self.product(f"{name}.qkv", normed, width, H)
        query = [joined, "", ""]
        if self.head_norms:
            sizes = self.constant("sizes", np.array([HEADS * SIZE, KV_HEADS * SIZE, KV_HEADS * SIZE]))
            parts = [f"{name}.{part}" for part in "qkv"]
            self.add("Split", [joined, sizes], parts, axis=-1)
            query = [self.head_norm(parts[0], HEADS), self.head_norm(parts[1], KV_HEADS), parts[2]]
        past = [f"past.{name}.key", f"past.{name}.value"]
        self.caches += past
        tables = [
            self.constant(f.__name__, f(np.outer(np.arange(40), 1.0 / np.arange(1, 9))).astype(np.float32))
            for f in (np.cos, np.sin)
        ]
        present = [each.replace("past", "present") for each in past]
        attributes = {"num_heads": HEADS, "kv_num_heads": KV_HEADS, "do_rotary": 1, "scale": 0.25}
        context = f"{name}.context"
        read, written = past, present
        if self.cache != "float":
            read, written = [f"{each}.float" for each in past], [f"{each}.float" for each in present]
            for value, result in zip(past, read, strict=True):
                self.change_type(value, result, TensorProto.FLOAT)
        inputs = [*query, *read, "last_keys", "longest", *tables]
        self.add("GroupQueryAttention", inputs, [context, *written], "com.microsoft", **attributes)
        if self.cache != "float":
            for value, result in zip(written, present, strict=True):
                self.change_type(value, result, CACHES[self.cache])
        return self.product(f"{name}.o", context, H, HEADS * SIZE)

    def change_type(self, value: str, result: str, kind: int) -> None:
        if self.cache == "half":
            self.add("Cast", [value], result, to=kind)
        elif kind == TensorProto.INT8:
            self.add(TO_INT8, [value], result, OP.domain)
        else:
            self.add(FROM_INT8, [value], result, OP.domain, to=kind)

    def head_norm(self, name: str, heads: int) -> str:
        shape = self.constant(f"shape{heads}", np.array([0, 0, heads, SIZE]))
        back = self.constant(f"back{heads}", np.array([0, 0, heads * SIZE]))
        inner = self.add("Reshape", [name, shape], f"{name}.heads")
        return self.add("Reshape", [self.norm(f"{name}.norm", inner, SIZE), back], f"{name}.normed")

    def mlp(self, name: str, normed: str) -> str:
        hidden = self.product(f"{name}.gate_up", normed, 2 * WIDE, H)
        gate, up = f"{name}.gate", f"{name}.up"
        self.add("Split", [hidden, self.constant("halves", np.array([WIDE, WIDE]))], [gate, up], axis=-1)
        if self.activation == "silu":
            sigmoid = self.add("Sigmoid", [gate], f"{name}.sigmoid")
            activated = self.add("Mul", [gate, sigmoid], f"{name}.activated")
        else:
            activated = self.add("Gelu", [gate], f"{name}.activated", approximate=self.activation)
        return self.product(f"{name}.down", self.add("Mul", [activated, up], f"{name}.product"), H, WIDE)

    def model(self, layers: int = 2) -> onnx.ModelProto:
        total, normed = "X", self.norm("first", "X")
        for index in range(layers):
            normed, total = self.skip_norm(f"{index}.mid", total, self.attention(f"{index}.attn", normed))
            normed, total = self.skip_norm(f"{index}.end", total, self.mlp(f"{index}.mlp", normed))
        self.add("Identity", [normed], "Y")
        info = helper.make_tensor_value_info
        kind, size = CACHES[self.cache], SIZE + 4 * (self.cache == "int8")
        inputs = [info("X", TensorProto.FLOAT, ["B", "S", H]), info("last_keys", TensorProto.INT32, ["B"])]
        inputs += [info("longest", TensorProto.INT32, [1])]
        inputs += [info(name, kind, ["B", KV_HEADS, "T", size]) for name in self.caches]
        outputs = [info("Y", TensorProto.FLOAT, ["B", "S", H])]
        outputs += [info(n.replace("past", "present"), kind, ["B", KV_HEADS, "P", size]) for n in self.caches]
        graph = helper.make_graph(self.nodes, "layers", inputs, outputs, self.initializers)
        imports = [("", 23), ("com.microsoft", 1), (OP.domain, OP.version)]
        functions = [rows_from_int8(23), rows_to_int8(23)] if self.cache == "int8" else []
        opsets = [helper.make_opsetid(*each) for each in imports]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions)


def results(model: onnx.ModelProto, S: int = 5, past: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    session = open_session(model)
    feeds = {"X": rng.normal(0, 1, (1, S, H)), "last_keys": np.array([past + S - 1]), "longest": np.array([past + S])}
    for value in session.get_inputs():
        kind = {"tensor(int32)": np.int32, "tensor(float16)": np.float16}.get(value.type, np.float32)
        feeds[value.name] = feeds.get(value.name, rng.normal(0, 1, (1, KV_HEADS, past, SIZE))).astype(kind)
        if value.type == "tensor(int8)":
            feeds[value.name] = int8_rows(feeds[value.name])
    return [np.asarray(each) for each in session.run(None, feeds)]


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("cache", ["half", "int8"])
def test_blocks_read_caches_of_other_types_and_are_taken_apart(cache):
    model = Layers(cache=cache).model()
    before = results(model, S=1)

    made = fuse_blocks(model)

    assert (made.attention, made.other_attention) == (2, 0)
    assert operators(model) == [ATTENTION.name, MLP.name] * 2 + ["RMSNormalization", "Identity"]
    after = results(model, S=1)
    # The block rounds a new key before its own token sees it, the nodes afterwards: of 4 keys one, by 1/254 at most
    # (of float16 by 2^-11).
    assert np.abs(after[0] - before[0]).max() < (5e-3 if cache == "int8" else 1e-3) * np.abs(before[0]).max()
    for one, other in zip(after[1:3], before[1:3], strict=True):  # of the first layer, whose X is the same
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one[:, :, :3], other[:, :, :3])
        assert np.abs(one[..., :SIZE].astype(float) - other[..., :SIZE].astype(float)).max() <= 1
    once = deepcopy(model)
    assert unfuse_blocks(model)
    assert {"half": "Cast", "int8": FROM_INT8}[cache] in operators(model)
    fuse_blocks(model)
    assert model.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


def _past_as_it_is(model: onnx.ModelProto) -> None:
    change(model, "0.attn.context").input[3] = "past.1.attn.key"


def _a_cache_that_is_no_half(model: onnx.ModelProto) -> None:
    value = next(value for value in model.graph.input if value.name == "past.0.attn.key")
    value.type.tensor_type.elem_type = TensorProto.DOUBLE


def _a_present_of_another_type(model: onnx.ModelProto) -> None:
    change(model, "present.0.attn.value").op_type = "Identity"


@pytest.mark.parametrize("edit", [_past_as_it_is, _a_cache_that_is_no_half, _a_present_of_another_type])
def test_attention_whose_cache_changes_its_type_otherwise_stays_as_it_is(edit):
    model = Layers(cache="half").model()
    edit(model)

    made = fuse_blocks(model)

    assert (made.attention, made.other_attention) == (1, 1)


@pytest.mark.parametrize(
    "kind",
    [{}, {"bias": True}, {"head_norms": True, "bias": True}, {"activation": "tanh"}, {"activation": "none"}],
    ids=str,
)
def test_layers_become_two_nodes_and_compute_the_same(kind):
    model = Layers(**kind).model()
    before = results(model)

    made = fuse_blocks(model)

    assert (made.mlp, made.attention, made.other_attention) == (2, 2, 0)
    assert operators(model) == [ATTENTION.name, MLP.name] * 2 + ["RMSNormalization", "Identity"]
    for one, other in zip(results(model), before, strict=True):
        assert np.abs(one - other).max() < 1e-4 * np.abs(other).max()  # roundings of float32


def test_taken_apart_the_model_has_its_nodes_and_fuses_to_the_same_bytes():
    model = Layers(head_norms=True).model()
    products = operators(model).count(OP.name)
    fuse_blocks(model)
    once = deepcopy(model)
    assert has_blocks(model)

    assert unfuse_blocks(model)

    assert not has_blocks(model)
    assert not unfuse_blocks(model)
    assert operators(model).count(OP.name) == products
    for one, other in zip(results(model), results(once), strict=True):
        assert np.abs(one - other).max() < 1e-4 * np.abs(other).max()
    fuse_blocks(model)
    assert model.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


def test_layers_that_differ_have_functions_of_their_own():
    layers = Layers()
    model = layers.model()
    first = next(node for node in model.graph.node if node.op_type == OP.name)
    next(each for each in first.attribute if each.name == "accuracy_level").i = 4

    fuse_blocks(model)

    blocks = [node.domain for node in model.graph.node if node.op_type == ATTENTION.name]
    assert blocks == [ATTENTION.domain_names[0], ATTENTION.domain_names[1]]
    assert {(f.domain, f.name) for f in model.functions} == {
        *((domain, ATTENTION.name) for domain in blocks),
        (MLP.domain, MLP.name),
    }


def change(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def _another_reader(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("0.mlp.activated", TensorProto.FLOAT, None))


def _another_residual(model: onnx.ModelProto) -> None:
    change(model, "0.end.out").input[0] = "first.out"


def _another_axis(model: onnx.ModelProto) -> None:
    for each in change(model, "0.mlp.gate").attribute:
        each.i = 1 if each.name == "axis" else each.i


def _another_activation(model: onnx.ModelProto) -> None:
    change(model, "0.mlp.sigmoid").op_type = "Tanh"


@pytest.mark.parametrize("edit", [_another_reader, _another_residual, _another_axis, _another_activation])
def test_a_layer_of_another_kind_stays_as_it_is(edit):
    model = Layers().model()
    edit(model)

    made = fuse_blocks(model)

    assert made.mlp == 1
    assert "Split" in operators(model)


def _a_mask(model: onnx.ModelProto) -> None:
    change(model, "0.attn.context").input.extend(["", "mask"])


def _smooth_softmax(model: onnx.ModelProto) -> None:
    change(model, "0.attn.context").attribute.append(helper.make_attribute("smooth_softmax", 1))


@pytest.mark.parametrize("edit", [_a_mask, _smooth_softmax])
def test_attention_of_another_kind_stays_as_it_is(edit):
    model = Layers().model()
    edit(model)

    made = fuse_blocks(model)

    assert (made.attention, made.other_attention) == (1, 1)
    assert operators(model).count("SkipSimplifiedLayerNormalization") == 0  # its sum belongs to the next block's input


def test_a_model_without_blocks_is_left_as_it_is():
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["X"], ["Y"])],
            "g",
            [helper.make_tensor_value_info("X", TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [1])],
        ),
        opset_imports=[helper.make_opsetid("", 23)],
    )
    before = model.SerializeToString(deterministic=True)

    fuse_blocks(model)

    assert model.SerializeToString(deterministic=True) == before


def test_a_block_without_its_function_is_one_error():
    model = Layers().model()
    fuse_blocks(model)
    del model.functions[:]

    with pytest.raises(InputError, match=r"node '0\.attn': the model has no function dualbinary::DualBinaryAttention"):
        unfuse_blocks(model)
