#!/usr/bin/env bash
# The reference evaluator of onnx runs the wrong overload of a function.
#
# Software: onnx 1.23.2, onnxruntime 1.32.0
# Input: two functions of one domain and name that differ in the field "overload"; two nodes, one for each.
# Expected: each node runs the function of its overload: X itself, and -X.
# Observed: ONNX Runtime and onnx.inliner do so. The reference evaluator runs the function that comes last in the file
#   for both nodes, without an error.
#
# Output seen on 2026-11-28:
#   ONNX Runtime: same 1.0, minus -1.0
#   inlined: same 1.0, minus -1.0
#   reference: same -1.0, minus -1.0
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
import onnx.inliner
import onnxruntime
from onnx import helper
from onnx.reference import ReferenceEvaluator

opsets = [helper.make_opsetid("", 21), helper.make_opsetid("example", 1)]
functions, nodes, outputs = [], [], []
for overload, op_type in (("same", "Identity"), ("minus", "Neg")):
    body = [helper.make_node(op_type, ["X"], ["Y"])]
    functions.append(helper.make_function("example", "F", ["X"], ["Y"], body, opsets[:1], overload=overload))
    nodes.append(helper.make_node("F", ["X"], [overload], domain="example", overload=overload))
    outputs.append(helper.make_tensor_value_info(overload, onnx.TensorProto.FLOAT, [1]))
inputs = [helper.make_tensor_value_info("X", onnx.TensorProto.FLOAT, [1])]
model = helper.make_model(
    helper.make_graph(nodes, "g", inputs, outputs), opset_imports=opsets, functions=functions, ir_version=10
)
onnx.checker.check_model(model, full_check=True)

feeds = {"X": np.ones(1, np.float32)}
session = onnxruntime.InferenceSession(model.SerializeToString())
inlined = ReferenceEvaluator(onnx.inliner.inline_local_functions(model))
seen = []
for name, runner in (("ONNX Runtime", session), ("inlined", inlined), ("reference", ReferenceEvaluator(model))):
    seen.append([float(value[0]) for value in runner.run(None, feeds)])
    print(f"{name}: same {seen[-1][0]}, minus {seen[-1][1]}")
raise SystemExit(0 if seen == [[1, -1], [1, -1], [-1, -1]] else "the behavior has changed")
PYTHON
