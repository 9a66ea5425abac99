"""Golden vectors of the blocks against the formulas of the contract, number by number, from the file alone."""

import hashlib
import math
import struct
from importlib.resources import files

import numpy as np
import pytest

from dualbinary.contract.golden import blocks as golden

# Nine digits are in the file. New keys and values are rounded to the cache's float32, by 2^-24 = 6e-8 at most, which
# what follows may double or so.
CLOSE = 2e-7


class Tensors:
    """Inputs of a case, read one number at a time."""

    def __init__(self, case):
        self.tensors, self.attributes = case["inputs"], case["attributes"]

    def __contains__(self, name):
        return name in self.tensors

    def at(self, name, *index):
        tensor, place = self.tensors[name], 0
        for size, i in zip(tensor["shape"], index, strict=True):
            place = place * size + i
        return tensor["values"][place]

    def bias(self, name, n):
        return self.at(name, n) if name in self else 0.0

    def weight(self, prefix, n, k):
        """One weight of a product: two planes, either with a scale each, or a step and a zero point."""
        bits = [self.at(f"{prefix}_planes", p, n, k // 8) >> k % 8 & 1 for p in range(2)]
        group = k // self.attributes[f"{prefix}_group_size"]
        if f"{prefix}_twice_zero" in self.attributes:
            step, zero = self.at(f"{prefix}_scales", 0, n, group), self.attributes[f"{prefix}_twice_zero"] / 2
            return step * (bits[0] + 2 * bits[1] - zero)
        return sum(self.at(f"{prefix}_scales", p, n, group) * bits[p] for p in range(2))

    def product(self, prefix, x):
        """The product of a row, with its bias."""
        outputs = self.tensors[f"{prefix}_planes"]["shape"][1]
        return [
            sum(self.weight(prefix, n, k) * x[k] for k in range(len(x))) + self.bias(f"{prefix}_bias", n)
            for n in range(outputs)
        ]

    def norm(self, name, x):
        if name not in self:
            return x
        root = math.sqrt(sum(v * v for v in x) / len(x) + self.attributes["epsilon"])
        return [self.at(name, i) * v / root for i, v in enumerate(x)]


ACTIVATIONS = [
    lambda v: v / (1 + math.exp(-v)),
    lambda v: v / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
    lambda v: v / 2 * (1 + math.erf(v / math.sqrt(2))),
    lambda v: max(v, 0) ** 2,
]


def cases(operator):
    found = [case for case in golden.load() if case["operator"] == operator]
    return pytest.mark.parametrize("case", found, ids=lambda case: case["name"])


def output(case, name):
    tensor = case["outputs"][name]
    return np.array(tensor["values"], np.float64).reshape(tensor["shape"])


@cases("DualBinaryMlp")
def test_golden_y_of_the_feed_forward_block_is_the_formula(case):
    given, y = Tensors(case), output(case, "Y")
    wide = case["attributes"]["intermediate_size"]
    for m in range(len(y)):
        x = [given.at("X", m, k) for k in range(y.shape[1])]
        h = given.product("gate_up", given.norm("norm_weight", x))
        a = [ACTIVATIONS[case["attributes"]["activation"]](h[i]) * h[wide + i] for i in range(wide)]
        d = given.norm("post_norm_weight", given.product("down", a))
        np.testing.assert_allclose(y[m], [v + w for v, w in zip(x, d, strict=True)], rtol=CLOSE, atol=CLOSE)


@cases("DualBinaryAttention")
def test_golden_y_of_the_attention_block_is_the_formula(case):
    given, y = Tensors(case), output(case, "Y")
    B, S, T = *y.shape[:2], case["outputs"]["present_key"]["shape"][2]
    for b in range(B):
        before = given.at("last_keys", b) + 1 - S if given.at("longest", 0) != S else 0
        keys, values = (past(given, f"past_{kind}", b, before) for kind in ("key", "value"))
        for s in range(S):
            expected = token(given, b, s, before, keys, values)
            np.testing.assert_allclose(y[b, s], expected, rtol=CLOSE, atol=CLOSE)
        for kind, rows in (("key", keys), ("value", values)):
            present = stored(case["outputs"][f"present_{kind}"], b)
            for head, of_head in enumerate(rows):
                of_head += [[0.0] * len(of_head[0])] * (T - len(of_head))
                np.testing.assert_allclose(present[head], of_head, rtol=CLOSE, atol=CLOSE)


def stored(tensor, b):
    """What the rows of a cache stand for, [g][T][D]."""
    heads, tokens, width = tensor["shape"][1:]
    flat = tensor["values"][b * heads * tokens * width :][: heads * tokens * width]
    rows = [[flat[(h * tokens + t) * width :][:width] for t in range(tokens)] for h in range(heads)]
    return [[numbers(row) for row in of_head] for of_head in rows] if tensor["type"] == "int8" else rows


def numbers(row):
    """What numbers of 8 bits and the factor behind them stand for."""
    (factor,) = struct.unpack("<f", struct.pack("4b", *row[-4:]))
    return [factor * v for v in row[:-4]]


def rounded(row):
    """The numbers of 8 bits that are nearest, times their factor, of a row that a cache takes in."""
    factor = max(map(abs, row)) / 127
    return [round(v / factor) * float(np.float32(factor)) for v in row]


def past(given, name, b, before):
    return [rows[:before] for rows in stored(given.tensors[name], b)]


def token(given, b, s, before, keys, values):
    """Y of one token, whose key and value are put behind those of the tokens before."""
    a, place = given.attributes, before + s
    h, g, D = a["num_heads"], a["kv_num_heads"], a["head_size"]
    x = [given.at("X", b, s, i) for i in range(given.tensors["X"]["shape"][2])]
    joined = given.product("qkv", given.norm("norm_weight", x)) if "qkv_planes" in given else x
    heads = [joined[i * D : i * D + D] for i in range(h + 2 * g)]
    for i in range(h + g):
        heads[i] = rotated(given, given.norm("q_norm_weight" if i < h else "k_norm_weight", heads[i]), place)
    int8 = given.tensors["past_key"]["type"] == "int8"
    for i in range(g):
        new = [rounded(each) if int8 else each for each in (heads[h + i], heads[h + g + i])]
        keys[i].append(new[0])
        values[i].append(new[1])
    first = max(0, place - a["local_window_size"] + 1) if a["local_window_size"] else 0
    c = []
    for i in range(h):
        of_head = i * g // h
        scores = [
            a["scale"] * sum(p * q for p, q in zip(heads[i], keys[of_head][j], strict=True))
            for j in range(first, place + 1)
        ]
        if a["softcap"]:
            scores = [a["softcap"] * math.tanh(v / a["softcap"]) for v in scores]
        weights = [math.exp(v) for v in scores]
        rows = values[of_head][first : place + 1]
        c += [sum(w * row[d] for w, row in zip(weights, rows, strict=True)) / sum(weights) for d in range(D)]
    if "o_planes" not in given:
        return c
    o = given.norm("post_norm_weight", given.product("o", c))
    return [v + w for v, w in zip(x, o, strict=True)]


def rotated(given, head, place):
    if "cos_table" not in given:
        return head
    half, result = given.tensors["cos_table"]["shape"][1], list(head)
    for i in range(half):
        one, other = (2 * i, 2 * i + 1) if given.attributes["rotary_interleaved"] else (i, half + i)
        cos, sin = given.at("cos_table", place, i), given.at("sin_table", place, i)
        result[one] = head[one] * cos - head[other] * sin
        result[other] = head[other] * cos + head[one] * sin
    return result


def test_golden_cases_cover_every_optional_input_and_activation():
    found = golden.load()
    names = {name for case in found for name in case["inputs"]}
    assert names >= {"norm_weight", "post_norm_weight", "gate_up_bias", "qkv_bias", "q_norm_weight", "o_bias"}
    assert {case["attributes"].get("activation", 0) for case in found} == {0, 1, 2, 3}
    assert {case["inputs"]["past_key"]["type"] for case in found if "past_key" in case["inputs"]} == {"float32", "int8"}


def test_the_golden_file_never_changes():
    text = files("dualbinary.contract.golden").joinpath(golden.FILE_NAME).read_text(encoding="utf-8")
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "2958f0eac19cbd28"
    assert golden.text() == text
