#!/usr/bin/env bash
# ONNX Runtime before 1.32 gives reductions of empty tensors a wrong shape where the axis is negative.
#
# Software: onnxruntime 1.30.0, 1.31.1 and 1.32.0, onnx 1.23.2
# Input: Y = ReduceSum <keepdims = 1> (X, [axis]) for X of shape [1, 2, 0, 4], such as a cache before its first token.
# Expected: [1, 2, 0, 1] for axis 3 and for axis -1, which is the same one.
# Observed: 1.30.0 and 1.31.1 return [1, 2, 0, 4] for axis -1 (ReduceMax, ReduceMean and ReduceL2 as well), so that an
#   operator behind it fails to broadcast. 1.32.0 is right. onnxruntime-node and onnxruntime-web are at 1.30.0.
#
# Output seen on 2026-11-29:
#   1.30.0: axis 3 (1, 2, 0, 1), axis -1 (1, 2, 0, 4)
#   1.31.1: axis 3 (1, 2, 0, 1), axis -1 (1, 2, 0, 4)
#   1.32.0: axis 3 (1, 2, 0, 1), axis -1 (1, 2, 0, 1)
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/run.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import parser

model = parser.parse_model(
    '<ir_version: 10, opset_import: ["" : 18]> '
    "g (float[A, B, C, D] X, int64[1] axes) => (float[E, F, G, H] Y) { Y = ReduceSum <keepdims = 1> (X, axes) }"
)
onnx.checker.check_model(model, full_check=True)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
empty = np.zeros((1, 2, 0, 4), np.float32)
shapes = [session.run(None, {"X": empty, "axes": np.array([axis])})[0].shape for axis in (3, -1)]
version = onnxruntime.__version__
print("{}: axis 3 {}, axis -1 {}".format(version, *shapes))
right = (1, 2, 0, 1)
expected = [right, right if version == "1.32.0" else empty.shape]
sys.exit(0 if shapes == expected else "the behavior has changed")
PYTHON
for version in 1.30.0 1.31.1 1.32.0; do
  python3 -m venv "$work/$version"
  "$work/$version/bin/pip" install --quiet --disable-pip-version-check \
    onnx==1.23.2 "onnxruntime==$version" numpy==2.4.6
  "$work/$version/bin/python" "$work/run.py"
done
