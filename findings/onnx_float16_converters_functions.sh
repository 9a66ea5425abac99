#!/usr/bin/env bash
# Float16 converters leave the bodies of model-local functions alone, and the result does not load.
#
# Software: onnxruntime 1.32.0 (onnxruntime.transformers.float16), onnxconverter-common 1.16.0, onnx 1.23.2
# Input: a valid float32 model whose one node calls a function with a float32 constant in its body.
# Expected: the body is converted too, or the node stays float32 between two Casts, as operators without float16 do, or an error.
# Observed: both converters make the inputs of the node float16 and leave the constant float32. No error; ONNX Runtime
#   refuses the model.
#
# Output seen on 2026-11-28:
#   original: loads
#   onnxruntime.transformers: refused: eError] (op_type:Mul): B has inconsistent type tensor(float)
#   onnxconverter-common: refused: eError] (op_type:Mul): B has inconsistent type tensor(float)
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 onnxconverter-common==1.16.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import onnx
import onnxconverter_common
import onnxruntime
from onnx import parser
from onnxruntime.transformers import float16

onnxruntime.set_default_logger_severity(4)
MODEL = """<ir_version: 10, opset_import: ["" : 21, "example" : 1]>
g (float[2] X) => (float[2] Y) { Y = example.Half (X) }
<domain: "example", opset_import: ["" : 21]>
Half (X) => (Y) { A = Constant <value = float {0.5}> ()  Y = Mul (X, A) }"""


def loads(model):
    try:
        onnxruntime.InferenceSession(model.SerializeToString())
        return "loads"
    except Exception as error:
        return f"refused: {str(error).strip()[-60:]}"


model = parser.parse_model(MODEL)
onnx.checker.check_model(model, full_check=True)
seen = {"original": loads(model)}
for name, convert in (
    ("onnxruntime.transformers", float16.convert_float_to_float16),
    ("onnxconverter-common", onnxconverter_common.float16.convert_float_to_float16),
):
    seen[name] = loads(convert(parser.parse_model(MODEL)))
for name, result in seen.items():
    print(f"{name}: {result}")
first, *others = seen.values()
same = first == "loads" and all("inconsistent type" in result for result in others)
raise SystemExit(0 if same else "the behavior has changed")
PYTHON
