#!/usr/bin/env bash
# Defaults of attributes of model-local functions get lost in the tools of the onnx package.
#
# Software: onnx 1.23.2, onnxruntime 1.32.0
# Input: a function that declares the attribute "slope" with default 0.5, called without it on the value -2.
# Expected: -1 everywhere. The format stores the default in attribute_proto of the function, and the checker accepts it.
# Observed: ONNX Runtime gives -1. The inliner leaves the attribute out, so LeakyRelu takes its own default, 0.01, and
#   the inlined model gives -0.02 without an error. The reference evaluator raises an error. The text printer does not
#   print the default, and the model parsed from that text gives -0.02 as well.
#
# Output seen on 2026-11-28:
#   ONNX Runtime: -1.0
#   reference evaluator: TypeError
#   after onnx.inliner: -0.02
#   after printing and parsing: -0.02
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
from onnx import parser, printer
from onnx.reference import ReferenceEvaluator

model = parser.parse_model("""<ir_version: 10, opset_import: ["" : 21, "example" : 1]>
g (float[1] X) => (float[1] Y) { Y = example.Leaky (X) }
<domain: "example", opset_import: ["" : 21]>
Leaky <slope: float = 0.5> (X) => (Y) { Y = LeakyRelu <alpha: float = @slope> (X) }""")
onnx.checker.check_model(model, full_check=True)
feeds = {"X": np.array([-2], np.float32)}


def runtime(model):
    return round(float(onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)[0][0]), 4)


def reference(model):
    try:
        return round(float(ReferenceEvaluator(model).run(None, feeds)[0][0]), 4)
    except Exception as error:
        return type(error).__name__


seen = {
    "ONNX Runtime": runtime(model),
    "reference evaluator": reference(model),
    "after onnx.inliner": runtime(onnx.inliner.inline_local_functions(model)),
    "after printing and parsing": runtime(parser.parse_model(printer.to_text(model))),
}
for name, value in seen.items():
    print(f"{name}: {value}")
raise SystemExit(0 if list(seen.values()) == [-1.0, "TypeError", -0.02, -0.02] else "the behavior has changed")
PYTHON
