#!/usr/bin/env bash
# onnx.version_converter drops the functions of a model.
#
# Software: onnx 1.23.2, onnxruntime 1.32.0
# Input: a valid model of opset 21 whose one node calls a function in the same file, converted to opset 22.
# Expected: the function is kept (the operators in it did not change), or an error says that it cannot be converted.
# Observed: no error; the node stays and the function is gone, so that no runtime can load the result.
#
# Output seen on 2026-11-28:
#   before: nodes ['Twice'], 1 functions, ONNX Runtime: loads
#   after: nodes ['Twice'], 0 functions, ONNX Runtime: 1 : FAIL : Fatal error: example:Twice(-1) is not a registered
#       function/op
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import onnx
import onnx.version_converter
import onnxruntime
from onnx import parser

onnxruntime.set_default_logger_severity(4)
model = parser.parse_model("""<ir_version: 10, opset_import: ["" : 21, "example" : 1]>
g (float[1] X) => (float[1] Y) { Y = example.Twice (X) }
<domain: "example", opset_import: ["" : 21]>
Twice (X) => (Y) { Y = Add (X, X) }""")
onnx.checker.check_model(model, full_check=True)


def loads(model):
    try:
        onnxruntime.InferenceSession(model.SerializeToString())
        return "loads"
    except Exception as error:
        return str(error).partition(" : ")[2][-75:]


converted = onnx.version_converter.convert_version(model, 22)
for name, proto in (("before", model), ("after", converted)):
    nodes = [node.op_type for node in proto.graph.node]
    print(f"{name}: nodes {nodes}, {len(proto.functions)} functions, ONNX Runtime: {loads(proto)}")
same = loads(model) == "loads" and len(converted.functions) == 0 and "not a registered" in loads(converted)
raise SystemExit(0 if same else "the behavior has changed")
PYTHON
