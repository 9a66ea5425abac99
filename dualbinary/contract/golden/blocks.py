"""Golden vectors of DualBinaryMlp and DualBinaryAttention, as JSON that Python and C++ tests read alike.

    { "cases": [ { "operator", "name",
        "attributes": by name, as the node has them,
        "inputs":     by name: { "type", "shape", "values": numbers },
        "outputs":    the same; those of the reference, in the type of the tensor, but Y in float64 } ] }

Inputs are eighths and scales sixteenths. Results are no such numbers, since exponentials are taken: nine digits of each
are here, and what an implementation may round is in `dualbinary.contract.blocks`.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from dualbinary.contract.blocks import AttentionForm, attention, int8_rows, mlp
from dualbinary.contract.layout import dequantize, pack_planes
from dualbinary.contract.levels import FREE, Levels
from dualbinary.contract.schema import ATTENTION, MLP, padded_k

__all__ = ["FILE_NAME", "load", "text"]

FILE_NAME = "blocks.json"
GROUP_SIZE = 32
DIGITS = 9
_EVEN = Levels(True, 3)  # step * (q - 1.5)

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class _Mlp:
    name: str
    M: int
    H: int
    I: int  # noqa: E741, the symbol of the contract
    activation: int
    vectors: tuple[str, ...]  # optional inputs


@dataclass(frozen=True)
class _Attention:
    name: str
    before: tuple[int, ...]  # tokens of each sequence in the cache
    S: int
    room: int
    form: AttentionForm
    vectors: tuple[str, ...] = ()
    H: int | None = None  # without it there are no products
    rotated: int = 0  # width of the tables
    cache: str = "float32"


_NORMS = ("norm_weight", "post_norm_weight")
CASES: tuple[_Mlp | _Attention, ...] = (
    _Mlp("silu", 2, 8, 12, 0, ("norm_weight",)),
    _Mlp("gelu_tanh_biases", 1, 12, 8, 1, ("norm_weight", "gate_up_bias", "down_bias")),
    _Mlp("gelu_erf_ragged_post_norm", 1, 40, 5, 2, _NORMS),
    _Mlp("squared_relu_alone", 3, 8, 8, 3, ()),
    _Attention("begins", (0,), 3, 0, AttentionForm(2, 1, 8, 0.375), rotated=4),
    _Attention("one_token", (3, 1), 1, 5, AttentionForm(2, 1, 8, 0.375), ("norm_weight",), H=8, rotated=2),
    _Attention("window_and_cap", (4,), 2, 8, AttentionForm(2, 2, 8, 0.5, 2.0, 3, 1), rotated=4),
    _Attention("int8_cache", (2, 0), 2, 4, AttentionForm(2, 1, 8, 0.5), rotated=4, cache="int8"),
    _Attention(
        "all_vectors",
        (2,),
        2,
        4,
        AttentionForm(2, 1, 8, 0.375),
        (*_NORMS, "qkv_bias", "q_norm_weight", "k_norm_weight", "o_bias"),
        H=12,
        rotated=4,
    ),
)


def text() -> str:
    """The golden file as it should be; `python -m dualbinary.contract.codegen --golden` writes and checks it."""
    return '{"cases": [\n' + ",\n".join(json.dumps(_case(case)) for case in CASES) + "\n]}\n"


def load() -> list[dict[str, Any]]:
    """The cases of the golden file as it is."""
    return json.loads(files("dualbinary.contract.golden").joinpath(FILE_NAME).read_text(encoding="utf-8"))["cases"]


def _case(case: _Mlp | _Attention) -> dict[str, Any]:
    operator = MLP if isinstance(case, _Mlp) else ATTENTION
    attributes, inputs, outputs = _mlp(case) if isinstance(case, _Mlp) else _attention(case)
    order = [value.name for value in operator.inputs]
    return {
        "operator": operator.name,
        "name": case.name,
        "attributes": attributes,
        "inputs": {name: _tensor(inputs[name]) for name in order if name in inputs},
        "outputs": {name: _tensor(value) for name, value in outputs.items()},
    }


def _tensor(values: np.ndarray) -> dict[str, Any]:
    numbers = values.ravel().tolist()
    if values.dtype.kind == "f":
        numbers = [float(f"{number:.{DIGITS}g}") for number in numbers]
    return {"type": values.dtype.name, "shape": list(values.shape), "values": numbers}


def _mlp(case: _Mlp) -> tuple[dict[str, Any], Arrays, Arrays]:
    H, I = case.H, case.I  # noqa: E741
    sizes = {"norm_weight": H, "gate_up_bias": 2 * I, "down_bias": H, "post_norm_weight": H}
    x = _eighths(case.name, "X", (case.M, H))
    vectors = {name: _eighths(case.name, name, (sizes[name],)) for name in case.vectors}
    gate_up, first = _product(case.name, "gate_up", 2 * I, H, FREE)
    down, second = _product(case.name, "down", H, I, _EVEN)
    attributes = {"hidden_size": H, "intermediate_size": I, "activation": case.activation, "epsilon": 0.125}
    attributes |= _product_attributes("gate_up", FREE) | _product_attributes("down", _EVEN)
    y = mlp(x, gate_up, down, activation=case.activation, epsilon=0.125, **vectors)
    return attributes, {"X": x, **vectors, **first, **second}, {"Y": y}


def _attention(case: _Attention) -> tuple[dict[str, Any], Arrays, Arrays]:
    form, B = case.form, len(case.before)
    h, g, D = form.num_heads, form.kv_num_heads, form.head_size
    width, H = (h + 2 * g) * D, case.H or (h + 2 * g) * D
    sizes = {"norm_weight": H, "post_norm_weight": H, "qkv_bias": width, "o_bias": H}
    sizes |= {"q_norm_weight": D, "k_norm_weight": D}
    vectors = {name: _eighths(case.name, name, (sizes[name],)) for name in case.vectors}
    attributes: dict[str, Any] = {"hidden_size": H, **asdict(form)}
    matrices, constants = {}, {}
    if case.H is not None:
        matrices["qkv"], constants = _product(case.name, "qkv", width, H, FREE)
        matrices["o"], more = _product(case.name, "o", H, h * D, _EVEN)
        constants |= more
        attributes |= _product_attributes("qkv", FREE) | _product_attributes("o", _EVEN)
    longest = max(case.before) + case.S
    names = ("cos_table", "sin_table") if case.rotated else ()
    tables = {name: _eighths(case.name, name, (longest, case.rotated)) for name in names}
    past = {}
    for name in ("past_key", "past_value"):
        floats = _eighths(case.name, name, (B, g, case.room, D))
        past[name] = int8_rows(floats) if case.cache == "int8" else floats
    x = _eighths(case.name, "X", (B, case.S, H))
    last_keys = (np.array(case.before) + case.S - 1).astype(np.int32)
    pair = (tables["cos_table"], tables["sin_table"]) if tables else None
    cache = past["past_key"], past["past_value"]
    results = attention(x, *cache, last_keys, longest, form, tables=pair, **vectors, **matrices)
    inputs = {"X": x, **vectors, **constants, **tables, **past, "last_keys": last_keys}
    inputs["longest"] = np.array([longest], np.int32)
    return attributes, inputs, dict(zip(("Y", "present_key", "present_value"), results, strict=True))


def _product(case: str, prefix: str, N: int, K: int, levels: Levels) -> tuple[np.ndarray, Arrays]:
    """A matrix [N, K] of two planes, and the inputs of the node that hold it."""
    groups = padded_k(K, GROUP_SIZE) // GROUP_SIZE
    planes = pack_planes(_integers(case, f"{prefix}/bits", (2, N, K)) % 2, GROUP_SIZE)
    rows = levels.scale_rows(2)
    scales = ((_integers(case, f"{prefix}/scales", (rows, N, groups)) % 17 - 8) / 16).astype(np.float16)
    matrix = dequantize(planes, scales, K, GROUP_SIZE, levels)
    return matrix, {f"{prefix}_planes": planes, f"{prefix}_scales": scales}


def _product_attributes(prefix: str, levels: Levels) -> dict[str, int]:
    values = {"group_size": GROUP_SIZE, "layout": 1, "accuracy_level": 0}
    if levels.even:
        values |= {"levels": 1, "twice_zero": levels.twice_zero}
    return {f"{prefix}_{name}": value for name, value in values.items()}


def _eighths(case: str, label: str, shape: tuple[int, ...]) -> np.ndarray:
    return ((_integers(case, label, shape) % 17 - 8) / 8).astype(np.float32)


def _integers(case: str, label: str, shape: tuple[int, ...]) -> np.ndarray:
    """Integers 0 .. 255 that no version of NumPy changes, as a random generator's might."""
    stream = hashlib.shake_128(f"{case}/{label}".encode()).digest(int(np.prod(shape)))
    return np.frombuffer(stream, np.uint8).astype(np.int64).reshape(shape)
