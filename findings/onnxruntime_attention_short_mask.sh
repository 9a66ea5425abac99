#!/usr/bin/env bash
# ONNX Runtime's Attention of opset 24 refuses a mask that is shorter than the keys, which the operator allows.
#
# Software: onnxruntime 1.32.0, onnx 1.23.2
# Input: Attention of opset 24 and 25 with 3 keys and a mask of 2: "the last dimension can also be shorter than
#   total_sequence_length and will be padded to total_sequence_length with negative infinity".
# Expected: the result of a mask of 3 whose last column is false, as the reference evaluator gives.
# Observed: an error for the model of opset 24; the right result for the same model of opset 25.
#
# Output seen on 2026-11-29:
#   opset 24: reference as padded, ONNX Runtime error
#   opset 25: reference as padded, ONNX Runtime as padded
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check \
  onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$work/run.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import parser
from onnx.reference import ReferenceEvaluator


def by_reference(model, feeds):
    return ReferenceEvaluator(model).run(None, feeds)[0]


def by_onnxruntime(model, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def told(run, opset, feeds, mask):
    model = parser.parse_model(
        f'<ir_version: 11, opset_import: ["" : {opset}]> '
        "g (float[1, 2, 3, 4] q, float[1, 2, 3, 4] k, float[1, 2, 3, 4] v, bool[3, M] m) => (float[1, 2, 3, 4] y) "
        "{ y = Attention (q, k, v, m) }"
    )
    onnx.checker.check_model(model, full_check=True)
    padded = np.concatenate([mask, np.zeros((3, 1), bool)], axis=1)
    wanted = run(model, feeds | {"m": padded})
    try:
        found = run(model, feeds | {"m": mask})
    except Exception:
        return "error"
    return "as padded" if np.allclose(found, wanted, atol=1e-6) else "other values"


random = np.random.default_rng(0)
feeds = {name: random.standard_normal((1, 2, 3, 4)).astype(np.float32) for name in "qkv"}
mask = np.array([[True, False], [True, True], [False, True]])
seen = {opset: [told(run, opset, feeds, mask) for run in (by_reference, by_onnxruntime)] for opset in (24, 25)}
for opset, (reference, host) in seen.items():
    print(f"opset {opset}: reference {reference}, ONNX Runtime {host}")
expected = {24: ["as padded", "error"], 25: ["as padded", "as padded"]}
sys.exit(0 if seen == expected else "the behavior has changed")
PYTHON
"$work/environment/bin/python" "$work/run.py"
