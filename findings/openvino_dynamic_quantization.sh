#!/usr/bin/env bash
# OpenVINO rounds the activations of a product with weights of four bits to 8 bits on CPUs that multiply bytes, also where
# it is asked for float32.
#
# Software: openvino 2026.4.1, onnx 1.23.2, onnxruntime 1.32.0, on a CPU with AVX-512 VNNI
# Input: MatMulNBits of com.microsoft, 4 bits, float32 scales, no accuracy_level; Gaussian activations, one of each 64 a
#   hundred times as large.
# Expected: with INFERENCE_PRECISION_HINT f32 the float32 product, as in ONNX Runtime.
# Observed: an error ten thousand times as large, which goes with DYNAMIC_QUANTIZATION_GROUP_SIZE 0.
#
# Output seen on 2026-11-30:
#   OpenVINO, f32: error 1e-3 to 1e-1 of the largest
#   OpenVINO, f32, no dynamic quantization: error below 1e-5 of the largest
#   ONNX Runtime: error below 1e-5 of the largest
#
# Exit status: 0 while the behavior is as observed, another once it has changed, or on a CPU without AVX-512 VNNI.
set -euo pipefail
grep -q avx512_vnni /proc/cpuinfo || { echo "this CPU has no AVX-512 VNNI, so nothing can be seen here"; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check \
  openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$work/run.py" <<'PYTHON'
import sys

import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

M, N, K, BLOCK = 4, 64, 256, 32
random = np.random.default_rng(0)
codes = random.integers(0, 16, (N, K // BLOCK, BLOCK), np.uint8)
scales = random.uniform(0.25, 1, (N, K // BLOCK)).astype(np.float32)
weight = ((codes.astype(np.float32) - 8) * scales[..., None]).reshape(N, K)
x = random.standard_normal((M, K)).astype(np.float32)
x[:, ::64] *= 100
node = helper.make_node(
    "MatMulNBits", ["x", "codes", "scales"], ["y"], domain="com.microsoft", bits=4, block_size=BLOCK, K=K, N=N
)
kept = {"codes": codes[..., ::2] | codes[..., 1::2] << 4, "scales": scales}
graph = helper.make_graph(
    [node],
    "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [M, N])],
    [numpy_helper.from_array(value, name) for name, value in kept.items()],
)
imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
model = helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()


def by_openvino(**settings):
    core = openvino.Core()
    return core.compile_model(core.read_model(model), "CPU", settings)({"x": x})[0]


def words(found):
    wanted = x.astype(np.float64) @ weight.T.astype(np.float64)
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    print(f"  relative error {error:.1e}", file=sys.stderr)
    return "below 1e-5" if error < 1e-5 else "1e-3 to 1e-1" if 1e-3 < error < 1e-1 else "another"


results = {
    "OpenVINO, f32": words(by_openvino(INFERENCE_PRECISION_HINT="f32")),
    "OpenVINO, f32, no dynamic quantization": words(
        by_openvino(INFERENCE_PRECISION_HINT="f32", DYNAMIC_QUANTIZATION_GROUP_SIZE=0)
    ),
    "ONNX Runtime": words(
        onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    ),
}
for name, error in results.items():
    print(f"{name}: error {error} of the largest")
expected = ["1e-3 to 1e-1", "below 1e-5", "below 1e-5"]
sys.exit(0 if list(results.values()) == expected else "the behavior has changed")
PYTHON
"$work/environment/bin/python" "$work/run.py"
