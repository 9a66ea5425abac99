#!/usr/bin/env bash
# OpenVINO refuses a quantized embedding whose scales are a constant behind a Cast, and takes MatMulNBits with such scales.
#
# Software: openvino 2026.4.1, onnx 1.23.2, onnxruntime 1.32.0
# Input: GatherBlockQuantized and MatMulNBits of com.microsoft on the same four-bit codes, with float32 scales, and with
#   float16 scales that a Cast makes float32: what a runtime folds when it loads the model.
# Expected: the same result for both, as in ONNX Runtime.
# Observed: both are read for MatMulNBits. For GatherBlockQuantized float16 scales and a Cast are an error, "'scales' must
#   be a constant".
#
# Output seen on 2026-11-30:
#   MatMulNBits, float32 scales: ONNX Runtime right, OpenVINO right
#   MatMulNBits, cast scales: ONNX Runtime right, OpenVINO right
#   GatherBlockQuantized, float32 scales: ONNX Runtime right, OpenVINO right
#   GatherBlockQuantized, cast scales: ONNX Runtime right, OpenVINO error: 'scales' must be a constant
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
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

V, H, BLOCK = 8, 64, 32
random = np.random.default_rng(0)
codes = random.integers(0, 16, (V, H // BLOCK, BLOCK), np.uint8)
packed = codes[..., ::2] | codes[..., 1::2] << 4
scales = random.uniform(0.25, 1, (V, H // BLOCK)).astype(np.float16)
table = ((codes.astype(np.float32) - 8) * scales[..., None].astype(np.float32)).reshape(V, H)
ids, x = np.array([[1, 7, 3]]), random.standard_normal((3, H)).astype(np.float32)


def model_of(operator, cast):
    """One product, or one lookup, of the table."""
    if operator == "MatMulNBits":
        stored, inputs, given, sizes = packed, ["x", "codes", "scales"], x, {"K": H, "N": V}
    else:
        stored, inputs, given, sizes = packed.reshape(V, H // 2), ["codes", "x", "scales"], ids, {"quantize_axis": 1}
    nodes = [helper.make_node(operator, inputs, ["y"], domain="com.microsoft", bits=4, block_size=BLOCK, **sizes)]
    if cast:
        nodes.insert(0, helper.make_node("Cast", ["kept"], ["scales"], to=TensorProto.FLOAT))
    weights = {"codes": stored, **({"kept": scales} if cast else {"scales": scales.astype(np.float32)})}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(given.dtype), given.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString(), given


def by_onnxruntime(model, given):
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": given})[0]


def by_openvino(model, given):
    core = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}  # on any CPU
    compiled = core.compile_model(core.read_model(model), "CPU", exact)
    return compiled({"x": given})[0]


def told(run, model, given, wanted):
    try:
        found = run(model, given)
    except RuntimeError as error:
        reason = "'scales' must be a constant"
        return f"error: {reason}" if reason in str(error) else "another error"
    return "right" if np.allclose(found, wanted, rtol=1e-5, atol=1e-5) else "other values"


seen = []
for operator, wanted in (("MatMulNBits", x @ table.T), ("GatherBlockQuantized", table[ids])):
    for cast in (False, True):
        results = [told(run, *model_of(operator, cast), wanted) for run in (by_onnxruntime, by_openvino)]
        seen.append(results)
        kind = "cast" if cast else "float32"
        print(f"{operator}, {kind} scales: ONNX Runtime {results[0]}, OpenVINO {results[1]}")
expected = [["right", "right"]] * 3 + [["right", "error: 'scales' must be a constant"]]
sys.exit(0 if seen == expected else "the behavior has changed")
PYTHON
"$work/environment/bin/python" "$work/run.py"
