#!/usr/bin/env bash
# A float is cast to 4 bits by rounding in ONNX Runtime and by truncation in the reference evaluator.
#
# Software: onnx 1.23.2, onnxruntime 1.32.0 (CPU)
# Input: Cast of 2.5, 2.75 and 3.25 to INT8, UINT4, INT4 and UINT2, all within range.
# Expected: one rule for all integer types and both programs (truncation, as for INT8).
# Observed: ONNX Runtime truncates for INT8 and rounds for the types of 4 and 2 bits; the reference evaluator truncates
#   always. Codes made by a Cast in a graph therefore differ by one between the two.
#
# Output seen on 2026-11-28:
#   INT8 of [2.5, 2.75, 3.25]: ONNX Runtime [2, 2, 3], reference [2, 2, 3]
#   UINT4 of [2.5, 2.75, 3.25]: ONNX Runtime [3, 3, 3], reference [2, 2, 3]
#   INT4 of [2.5, 2.75, 3.25]: ONNX Runtime [3, 3, 3], reference [2, 2, 3]
#   UINT2 of [1.5, 1.75, 2.25]: ONNX Runtime [2, 2, 2], reference [1, 1, 2]
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
import onnxruntime
from onnx import TensorProto, parser
from onnx.reference import ReferenceEvaluator

x = np.array([2.5, 2.75, 3.25], np.float32)
seen = {}
for name in ("INT8", "UINT4", "INT4", "UINT2"):
    values = x - 1 if name == "UINT2" else x  # 1.5, 1.75, 2.25
    code = TensorProto.DataType.Value(name)
    model = parser.parse_model(f"""<ir_version: 13, opset_import: ["" : 25]>
g (float[3] X) => (float[3] Y) {{ C = Cast <to = {code}> (X)  Y = Cast <to = 1> (C) }}""")
    runtime = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"X": values})[0]
    reference = ReferenceEvaluator(model).run(None, {"X": values})[0]
    seen[name] = [runtime.astype(int).tolist(), reference.astype(int).tolist()]
    print(f"{name} of {values.tolist()}: ONNX Runtime {seen[name][0]}, reference {seen[name][1]}")
rounded, cut = [3, 3, 3], [2, 2, 3]
expected = {"INT8": [cut, cut], "UINT4": [rounded, cut], "INT4": [rounded, cut], "UINT2": [[2, 2, 2], [1, 1, 2]]}
raise SystemExit(0 if seen == expected else "the behavior has changed")
PYTHON
