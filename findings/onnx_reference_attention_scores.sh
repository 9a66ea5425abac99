#!/usr/bin/env bash
# ONNX's reference evaluator gives the scores of Attention after the softcap where those before it are asked for.
#
# Software: onnx 1.23.2, onnxruntime 1.32.0
# Input: Attention of opset 23, 24 and 25 with softcap = 2 and the fourth output, qk_matmul_output_mode 0 and 1.
# Expected: mode 0 is the product of queries and keys, scaled; mode 1 is that after the softcap.
# Observed: ONNX Runtime does so. The reference evaluator gives what is after the softcap for both. Y is the same in
#   all cases.
#
# Output seen on 2026-11-29:
#   opset 23: mode 0: reference capped, ONNX Runtime scaled; mode 1: reference capped, ONNX Runtime capped
#   opset 24: mode 0: reference capped, ONNX Runtime scaled; mode 1: reference capped, ONNX Runtime capped
#   opset 25: mode 0: reference capped, ONNX Runtime scaled; mode 1: reference capped, ONNX Runtime capped
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

CAP, HEAD_SIZE = 2.0, 4


def scores(opset, mode, feeds):
    model = parser.parse_model(
        f'<ir_version: 11, opset_import: ["" : {opset}]> '
        "g (float[1, 1, 3, 4] q, float[1, 1, 3, 4] k, float[1, 1, 3, 4] v) => (float[1, 1, 3, 4] y, float[1, 1, 3, 3] s)"
        f" {{ y, n1, n2, s = Attention <softcap = {CAP}, qk_matmul_output_mode = {mode}> (q, k, v) }}"
    )
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    both = [ReferenceEvaluator(model).run(None, feeds), session.run(None, feeds)]
    assert np.allclose(both[0][0], both[1][0], atol=1e-5)
    return [result[1][0, 0] for result in both]


random = np.random.default_rng(0)
feeds = {name: random.standard_normal((1, 1, 3, HEAD_SIZE)).astype(np.float32) for name in "qkv"}
scaled = feeds["q"][0, 0] @ feeds["k"][0, 0].T / np.sqrt(HEAD_SIZE)
known = {"scaled": scaled, "capped": CAP * np.tanh(scaled / CAP)}
same = True
for opset in (23, 24, 25):
    words = []
    for mode, expected in ((0, ["capped", "scaled"]), (1, ["capped", "capped"])):
        found = [
            next((name for name, value in known.items() if np.allclose(value, matrix, atol=1e-5)), "neither")
            for matrix in scores(opset, mode, feeds)
        ]
        same = same and found == expected
        words.append(f"mode {mode}: reference {found[0]}, ONNX Runtime {found[1]}")
    print(f"opset {opset}: {'; '.join(words)}")
sys.exit(0 if same else "the behavior has changed")
PYTHON
"$work/environment/bin/python" "$work/run.py"
