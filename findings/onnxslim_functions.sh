#!/usr/bin/env bash
# A slimmer of ONNX models takes unused inputs from model-local functions but not from the nodes that call them, and makes
# float constants of their bodies doubles.
#
# Software: onnxslim 0.1.98, onnx 1.23.2, onnxruntime 1.32.0
# Input: two valid models of one node each that calls a function. One function has an input that its body does not read,
#   between two that it does, as functions have that stand for an operator with optional inputs; the body of the other has a
#   constant given as value_float, which the operator Constant says is a float32.
# Expected: models that compute the same, or functions left as they are.
# Observed: no error, and neither result loads. The node of the first still passes three inputs to a function of two; the
#   constant of the second is stored as a double beside a float32.
#
# Output seen on 2026-12-01:
#   unused input: loads -> refused: Number of actual parameters cannot exceed number of formal parameters
#   value_float: loads -> refused: (op_type:Mul): B has inconsistent type tensor(double)
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check onnxslim==0.1.98 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import onnx
import onnxruntime
import onnxslim
from onnx import parser

quiet = onnxruntime.SessionOptions()
quiet.log_severity_level = 4
HEADER = '<ir_version: 10, opset_import: ["" : 21, "example" : 1]>'
DOMAIN = '<domain: "example", opset_import: ["" : 21]>'
UNUSED = f"""{HEADER}
g (float[2] X, float[2] A, float[2] B) => (float[2] Y) {{ Y = example.Scaled (X, A, B) }}
{DOMAIN}
Scaled (X, Note, Factor) => (Y) {{ Y = Mul (X, Factor) }}"""
FLOAT = f"""{HEADER}
g (float[2] X) => (float[2] Y) {{ Y = example.Half (X) }}
{DOMAIN}
Half (X) => (Y) {{ C = Constant <value_float = 0.5> ()  Y = Mul (X, C) }}"""


def loads(model):
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), quiet)
        return "loads"
    except Exception as error:
        return f"refused: {str(error).strip().rpartition('. ')[2].rpartition('] ')[2]}"


seen = {}
for name, text in (("unused input", UNUSED), ("value_float", FLOAT)):
    model = parser.parse_model(text)
    onnx.checker.check_model(model, full_check=True)
    seen[name] = (loads(model), loads(onnxslim.slim(parser.parse_model(text))))
    print(f"{name}: {seen[name][0]} -> {seen[name][1]}")
before = all(first == "loads" for first, _ in seen.values())
after = "formal parameters" in seen["unused input"][1] and "tensor(double)" in seen["value_float"][1]
raise SystemExit(0 if before and after else "the behavior has changed")
PYTHON
