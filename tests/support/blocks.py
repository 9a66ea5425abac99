"""Cases of DualBinaryMlp and DualBinaryAttention: nodes with random weights, inputs, and the reference's results."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dualbinary import ATTENTION, MLP
from dualbinary.contract.blocks import AttentionForm, attention, int8_rows, mlp
from dualbinary.contract.schema import Operator
from dualbinary.contract.weight import PlaneFormat, PlaneWeight
from tests.support.random_weights import random_weight

Arrays = dict[str, np.ndarray]
EVEN = PlaneFormat(2, 32, levels="even", zero=1.5)
_FREE = PlaneFormat(2, 32, False)
_OPSET = 23


@dataclass
class BlockCase:
    """A node of `operator`: its constants and inputs by name of the contract, and its results by the reference."""

    operator: Operator
    attributes: dict[str, Any]
    constants: Arrays
    inputs: Arrays
    expected: list[np.ndarray]
    before: list[int] = field(default_factory=list)

    def model(self) -> onnx.ModelProto:
        """The node alone in a model. Shapes of its inputs are those of the case, but for batch and tokens."""
        given = self.constants | self.inputs
        names = [value.name for value in self.operator.inputs]
        names = names[: 1 + max(names.index(name) for name in given)]
        outputs = [value.name for value in self.operator.outputs]
        node = helper.make_node(
            self.operator.name,
            [name if name in given else "" for name in names],
            outputs,
            name="block",
            domain=self.operator.domain,
            **self.attributes,
        )
        info = helper.make_tensor_value_info
        kinds = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in given.items()}
        cache = kinds.get("past_key", TensorProto.FLOAT)
        graph = helper.make_graph(
            [node],
            "block",
            [info(name, kinds[name], [None] * value.ndim) for name, value in self.inputs.items()],
            [info(name, kinds["X"] if name == "Y" else cache, None) for name in outputs],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        imports = [helper.make_opsetid("", _OPSET), helper.make_opsetid(self.operator.domain, self.operator.version)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)


def _product(rng: np.random.Generator, prefix: str, N: int, K: int, form: PlaneFormat) -> tuple[PlaneWeight, Arrays]:
    weight = random_weight(rng, N, K, form)
    return weight, {f"{prefix}_planes": weight.planes, f"{prefix}_scales": weight.scales}


def _attributes(prefix: str, weight: PlaneWeight, level: int) -> dict[str, int]:
    levels = weight.format.node_levels
    values = {"group_size": weight.format.group_size, "layout": 1, "accuracy_level": level}
    if levels.even:
        values |= {"levels": 1, "twice_zero": levels.twice_zero}
    return {f"{prefix}_{name}": value for name, value in values.items()}


def _vectors(rng: np.random.Generator, sizes: dict[str, int], dtype: np.dtype) -> Arrays:
    return {name: (1 + rng.normal(0, 0.2, size)).astype(dtype) for name, size in sizes.items()}


def mlp_case(
    lead: tuple[int, ...] = (1, 2),
    H: int = 64,
    I: int = 96,  # noqa: E741, the symbol of the contract
    *,
    activation: int = 0,
    norm: bool = True,
    bias: bool = False,
    post_norm: bool = False,
    dtype: Any = np.float32,
    level: int = 0,
    forms: tuple[PlaneFormat, PlaneFormat] = (_FREE, EVEN),
    seed: int = 0,
) -> BlockCase:
    """A case with small normal inputs."""
    rng = np.random.default_rng(seed)
    gate_up, constants = _product(rng, "gate_up", 2 * I, H, forms[0])
    down, more = _product(rng, "down", H, I, forms[1])
    sizes = {"norm_weight": H} if norm else {}
    sizes |= {"gate_up_bias": 2 * I, "down_bias": H} if bias else {}
    sizes |= {"post_norm_weight": H} if post_norm else {}
    vectors = _vectors(rng, sizes, np.dtype(dtype))
    x = rng.normal(0, 1, (*lead, H)).astype(dtype)
    attributes = {"hidden_size": H, "intermediate_size": I, "activation": activation, "epsilon": 1e-5}
    attributes |= _attributes("gate_up", gate_up, level) | _attributes("down", down, level)
    expected = mlp(x, gate_up.dequantize(), down.dequantize(), activation=activation, epsilon=1e-5, **vectors)
    return BlockCase(MLP, attributes, constants | more | vectors, {"X": x}, [expected])


def attention_case(
    S: int = 1,
    before: tuple[int, ...] = (5,),
    room: int = 16,
    *,
    heads: tuple[int, int, int] = (4, 2, 16),
    H: int = 64,
    products: bool = True,
    rotated: int | None = 8,
    interleaved: int = 0,
    softcap: float = 0.0,
    window: int = 0,
    norm: bool = True,
    head_norms: bool = False,
    bias: bool = False,
    post_norm: bool = False,
    dtype: Any = np.float32,
    cache: Any = None,
    level: int = 0,
    seed: int = 0,
) -> BlockCase:
    """A case with `before` tokens of each sequence in the cache; `rotated` numbers are half of those of a head."""
    rng = np.random.default_rng(seed)
    h, g, D = heads
    form = AttentionForm(h, g, D, D**-0.5, softcap, window, interleaved, 1e-5)
    width, B = (h + 2 * g) * D, len(before)
    attributes: dict[str, Any] = {"hidden_size": H, **asdict(form)}
    constants, matrices = {}, {}
    sizes = {"q_norm_weight": D, "k_norm_weight": D} if head_norms else {}
    if products:
        qkv, constants = _product(rng, "qkv", width, H, _FREE)
        o, more = _product(rng, "o", H, h * D, EVEN)
        constants |= more
        matrices = {"qkv": qkv.dequantize(), "o": o.dequantize()}
        attributes |= _attributes("qkv", qkv, level) | _attributes("o", o, level)
        sizes |= {"norm_weight": H} if norm else {}
        sizes |= {"qkv_bias": width, "o_bias": H} if bias else {}
        sizes |= {"post_norm_weight": H} if post_norm else {}
    vectors = _vectors(rng, sizes, np.dtype(dtype))
    longest = max(before) + S
    tables = None
    if rotated is not None:
        angles = rng.uniform(0, 6, (longest + 3, rotated))
        tables = np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)
        constants |= dict(zip(("cos_table", "sin_table"), tables, strict=True))
    past = [rng.normal(0, 1, (B, g, room, D)) for _ in range(2)]
    cache = np.dtype(dtype if cache is None else cache)
    past_key, past_value = (int8_rows(each) if cache == np.int8 else each.astype(cache) for each in past)
    x = rng.normal(0, 1, (B, S, H if products else width)).astype(dtype)
    last_keys = (np.array(before) + S - 1).astype(np.int32)
    expected = attention(x, past_key, past_value, last_keys, longest, form, tables=tables, **vectors, **matrices)
    inputs = {"X": x, "past_key": past_key, "past_value": past_value, "last_keys": last_keys}
    inputs["longest"] = np.array([longest], np.int32)
    return BlockCase(ATTENTION, attributes, constants | vectors, inputs, list(expected), list(before))
