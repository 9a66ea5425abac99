#!/usr/bin/env bash
# OpenVINO reads no ONNX model that has functions of its own.
#
# Software: openvino 2026.4.1, onnx 1.23.2, onnxruntime 1.32.0
# Input: a model of one node, whose operator is a function inside of the model (ONNX IR version 8 and newer), without
#   attributes, of one standard operator. onnx.checker accepts it.
# Expected: the node is computed by the function's body, as ONNX Runtime and the reference evaluator do.
# Observed: an error that no conversion rule exists for the node's operator. The same model after
#   onnx.inliner.inline_local_functions is read and gives the right result.
#
# Output seen on 2026-11-30:
#   as written: reference [2.0, 4.0], ONNX Runtime [2.0, 4.0], OpenVINO no conversion rule
#   inlined:    reference [2.0, 4.0], ONNX Runtime [2.0, 4.0], OpenVINO [2.0, 4.0]
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
import onnx
import onnxruntime
import openvino
from onnx import inliner, parser
from onnx.reference import ReferenceEvaluator

MODEL = """
<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
g (float[2] x) => (float[2] y) { y = local.Twice (x) }
<domain: "local", opset_import: ["" : 21]>
Twice (a) => (b) { b = Add (a, a) }
"""
X = np.array([1, 2], np.float32)


def by_reference(model):
    return ReferenceEvaluator(model).run(None, {"x": X})[0].tolist()


def by_onnxruntime(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X})[0].tolist()


def by_openvino(model):
    core = openvino.Core()
    try:
        compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU")
    except RuntimeError as error:
        return "no conversion rule" if "No conversion rule found" in str(error) else "another error"
    return compiled({"x": X})[0].tolist()


written = parser.parse_model(MODEL)
onnx.checker.check_model(written, full_check=True)
models = {"as written": written, "inlined": inliner.inline_local_functions(written)}
seen = {name: [run(model) for run in (by_reference, by_onnxruntime, by_openvino)] for name, model in models.items()}
for name, (reference, runtime, vino) in seen.items():
    print(f"{name + ':':<11} reference {reference}, ONNX Runtime {runtime}, OpenVINO {vino}")
right = [2.0, 4.0]
expected = {"as written": [right, right, "no conversion rule"], "inlined": [right, right, right]}
sys.exit(0 if seen == expected else "the behavior has changed")
PYTHON
"$work/environment/bin/python" "$work/run.py"
