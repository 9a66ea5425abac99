#!/usr/bin/env bash
# A float MatMul after DequantizeLinear rounds its activations to 8 bits in ONNX Runtime.
#
# Software: onnxruntime 1.32.0 (CPU), onnx 1.23.2
# Input: standard operators alone: DequantizeLinear of 4-bit weights in blocks of 32 to float32, then MatMul in float32.
# Expected: the accuracy of float32, as the operators say.
# Observed: the two nodes become one MatMulNBits with accuracy_level 4, which quantizes the activations to 8 bits: the
#   error is about 0.5 % of the largest output. Only session.qdq_matmulnbits_accuracy_level = 0 gives float32 accuracy.
#
# Output seen on 2026-11-28:
#   accuracy level default: ['MatMulNBits'], relative error 6.6e-03
#   accuracy level 0: ['MatMulNBits'], relative error 5.1e-07
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

onnxruntime.set_default_logger_severity(3)
N, K, BLOCK = 64, 256, 32
random = np.random.default_rng(0)
codes = random.integers(-8, 8, (K, N))
scales = random.uniform(0.01, 0.1, (K // BLOCK, N)).astype(np.float32)
x = random.standard_normal((4, K)).astype(np.float32)
expected = x.astype(np.float64) @ (codes * scales.repeat(BLOCK, axis=0).astype(np.float64))

nodes = [
    helper.make_node("DequantizeLinear", ["codes", "scales"], ["W"], axis=0, block_size=BLOCK),
    helper.make_node("MatMul", ["X", "W"], ["Y"]),
]
initializers = [
    helper.make_tensor("codes", TensorProto.INT4, [K, N], codes.ravel().tolist()),
    numpy_helper.from_array(scales, "scales"),
]
values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, s]) for n, s in (("X", K), ("Y", N))]
graph = helper.make_graph(nodes, "g", values[:1], values[1:], initializers)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
onnx.checker.check_model(model, full_check=True)

errors = {}
for level in ("default", "0"):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = "optimized.onnx"
    if level != "default":
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", level)
    result = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"X": x})[0]
    errors[level] = np.abs(result - expected).max() / np.abs(expected).max()
    operators = [node.op_type for node in onnx.load("optimized.onnx").graph.node]
    print(f"accuracy level {level}: {operators}, relative error {errors[level]:.1e}")
same = errors["default"] > 1e-3 and errors["0"] < 1e-5
raise SystemExit(0 if same else "the behavior has changed")
PYTHON
