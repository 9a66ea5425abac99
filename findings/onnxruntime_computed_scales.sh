#!/usr/bin/env bash
# ONNX Runtime's MatMulNBits gives zeros at accuracy level 4 where the scales are no constants and the codes are one.
#
# Software: onnxruntime 1.32.0 (CPU; seen on x86-64 with AVX-512 VNNI), onnx 1.23.2
# Input: MatMulNBits of 2, 4 and 8 bits at accuracy levels 0 and 4, with codes that are an initializer. Its scales
#   - stored: are initializers, as its zero points are,
#   - cast: are the Cast of an initializer in float16, in a session with graph optimizations, which fold it,
#   - plain: the same in a session without them,
#   - scales, points: or else its zero points are an input of the graph.
#   The documentation of the operator asks none of these to be constant.
# Expected: one result, up to the 8 bits of activations at level 4; or an error.
# Observed: right at level 0. At level 4 the product is zero everywhere where scales are no constant; where zero points are
#   none it is that of the usual ones, half of the range. Nothing is logged. Exporters write that Cast for scales of float16
#   and activations of float32: such a model is right, or zero, by an option of the session.
#
# Output seen on 2026-12-01:
#   2 bits, level 0: stored right, cast right, plain right, scales right, points right
#   2 bits, level 4: stored right, cast right, plain zero, scales zero, points unread
#   4 bits, level 0: stored right, cast right, plain right, scales right, points right
#   4 bits, level 4: stored right, cast right, plain zero, scales zero, points unread
#   8 bits, level 0: stored right, cast right, plain right, scales right, points right
#   8 bits, level 4: stored right, cast right, plain zero, scales zero, points unread
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check \
  onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$work/run.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

K, N, BLOCK = 256, 96, 32
WAYS = ("stored", "cast", "plain", "scales", "points")


def packed(numbers, bits):
    """`numbers` [rows, columns], several to a byte, the first one lowest."""
    fields = numbers.reshape(len(numbers), -1, 8 // bits) << (bits * np.arange(8 // bits))
    return fields.sum(-1).astype(np.uint8)


def product(way, bits, level, x, stored):
    """What a session gives for `x`, with the inputs `stored` of its node in one of the `WAYS`."""
    given = way if way in stored else None
    nodes, constants, feeds = [], dict(stored), {"x": x}
    if given:
        feeds[given] = constants.pop(given)
    elif way != "stored":
        constants["narrow"] = constants.pop("scales").astype(np.float16)
        nodes.append(helper.make_node("Cast", ["narrow"], ["scales"], to=TensorProto.FLOAT))
    sizes = {"K": K, "N": N, "bits": bits, "block_size": BLOCK, "accuracy_level": level}
    names = ["x", "codes", "scales", "points"]
    nodes.append(helper.make_node("MatMulNBits", names, ["y"], domain="com.microsoft", **sizes))
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [len(x), N])
    graph = helper.make_graph(
        nodes, "g", inputs, [output], [numpy_helper.from_array(value, name) for name, value in constants.items()]
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    if way == "plain":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def close(left, right):
    return np.abs(left - right).max() < 0.02 * np.abs(right).max()


def told(y, right, with_usual):
    if not y.any():
        return "zero"
    return "right" if close(y, right) else "unread" if close(y, with_usual) else "other"


same = True
for bits in (2, 4, 8):
    random = np.random.default_rng(bits)
    codes = random.integers(0, 1 << bits, (N, K))
    points = random.integers(0, 1 << bits, (N, K // BLOCK))
    scales = random.uniform(0.5, 1, (N, K // BLOCK)).astype(np.float16).astype(np.float32)
    x = random.standard_normal((3, K)).astype(np.float32)
    stored = {"codes": packed(codes, bits).reshape(N, K // BLOCK, -1), "scales": scales, "points": packed(points, bits)}
    by_column = {name: value.repeat(BLOCK, 1) for name, value in {"scales": scales, "points": points}.items()}
    right = x @ ((codes - by_column["points"]) * by_column["scales"]).T
    with_usual = x @ ((codes - (1 << (bits - 1))) * by_column["scales"]).T
    for level in (0, 4):
        seen = [told(product(way, bits, level, x, stored), right, with_usual) for way in WAYS]
        print(f"{bits} bits, level {level}:", ", ".join(f"{way} {word}" for way, word in zip(WAYS, seen, strict=True)))
        wrong = ["zero", "zero", "unread"] if level else ["right"] * 3
        same = same and seen == ["right", "right", *wrong]
sys.exit(0 if same else "the behavior has changed")
PYTHON
"$work/environment/bin/python" "$work/run.py"
