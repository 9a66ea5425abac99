#!/usr/bin/env bash
# ONNX Runtime before 1.27 runs the wrong overload of a function.
#
# Software: onnxruntime 1.23.0, 1.26.0, 1.27.0 and 1.32.0, onnx 1.23.2
# Input: two functions of one domain and name that differ in the field "overload" (part of ONNX since IR version 10); two
#   nodes, one for each.
# Expected: each node runs the function of its overload: X itself, and -X; or the model is refused.
# Observed: 1.23.0 and 1.26.0 load the model and run the function that comes last in the file for both nodes, without a
#   message. 1.27.0 and 1.32.0 run the right ones. Two functions of one name in two domains are told apart by all.
#
# Output seen on 2026-11-28:
#   1.23.0: overloads: same -1.0, minus -1.0; domains: same 1.0, minus -1.0
#   1.26.0: overloads: same -1.0, minus -1.0; domains: same 1.0, minus -1.0
#   1.27.0: overloads: same 1.0, minus -1.0; domains: same 1.0, minus -1.0
#   1.32.0: overloads: same 1.0, minus -1.0; domains: same 1.0, minus -1.0
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
from onnx import helper


def outputs(overloads: bool) -> tuple[float, float]:
    names, domains = (("same", "minus"), ("one", "one")) if overloads else (("", ""), ("one", "two"))
    opset = helper.make_opsetid("", 21)
    functions, nodes, results = [], [], []
    for index, op_type in enumerate(("Identity", "Neg")):
        domain, overload, result = domains[index], names[index], f"Y{index}"
        body = [helper.make_node(op_type, ["X"], ["Y"])]
        functions.append(helper.make_function(domain, "F", ["X"], ["Y"], body, [opset], overload=overload))
        nodes.append(helper.make_node("F", ["X"], [result], domain=domain, overload=overload))
        results.append(helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, [1]))
    inputs = [helper.make_tensor_value_info("X", onnx.TensorProto.FLOAT, [1])]
    opsets = [opset, *(helper.make_opsetid(domain, 1) for domain in dict.fromkeys(domains))]
    graph = helper.make_graph(nodes, "g", inputs, results)
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    same, minus = session.run(None, {"X": np.ones(1, np.float32)})
    return float(same[0]), float(minus[0])


version = onnxruntime.__version__
by_overload, by_domain = outputs(True), outputs(False)
print("{}: overloads: same {}, minus {}; domains: same {}, minus {}".format(version, *by_overload, *by_domain))
expected = (-1.0, -1.0) if version in ("1.23.0", "1.26.0") else (1.0, -1.0)
sys.exit(0 if (by_overload, by_domain) == (expected, (1.0, -1.0)) else "the behavior has changed")
PYTHON
for version in 1.23.0 1.26.0 1.27.0 1.32.0; do
  python3 -m venv "$work/$version"
  "$work/$version/bin/pip" install --quiet --disable-pip-version-check \
    onnx==1.23.2 "onnxruntime==$version" numpy==2.4.6
  "$work/$version/bin/python" "$work/run.py"
done
