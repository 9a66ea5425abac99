#!/usr/bin/env bash
# The text form of ONNX reads 4-bit tensors wrongly and cannot read back how it prints them.
#
# Software: onnx 1.23.2
# Input: a model in text form with the constants int4 {1, -2, 3} and, for comparison, int8 {1, -2, 3}.
# Expected: the parser stores the three values given, and text printed from a model can be parsed again.
# Observed: the parser puts one value in each element of int32_data, where the format packs two 4-bit values in a byte.
#   The checker accepts the tensor, and its values are read as 1, 0, -2. A correct 4-bit tensor is printed as "...",
#   which the parser refuses.
#
# Output seen on 2026-11-28:
#   int8 parsed from 1, -2, 3: [1, -2, 3]
#   int4 parsed from 1, -2, 3: [1, 0, -2]
#   printed: Y = Constant <value: tensor = int4[3] value...> ()
#   parser refuses the printed text: True
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import onnx
from onnx import numpy_helper, parser, printer

MODEL = """<ir_version: 10, opset_import: ["" : 21]>
g () => ({type}[3] Y) {{ Y = Constant <value = {type}[3] {{1, -2, 3}}> () }}"""


def values(model):
    return [int(v) for v in numpy_helper.to_array(model.graph.node[0].attribute[0].t)]


read = {}
for name in ("int8", "int4"):
    model = parser.parse_model(MODEL.format(type=name))
    onnx.checker.check_model(model, full_check=True)
    read[name] = values(model)
    print(f"{name} parsed from 1, -2, 3: {read[name]}")

right = onnx.helper.make_tensor("value", onnx.TensorProto.INT4, [3], [1, -2, 3])
model.graph.node[0].attribute[0].t.CopyFrom(right)
assert values(model) == [1, -2, 3]
text = printer.to_text(model)
print("printed:", next(line.strip() for line in text.splitlines() if "Constant" in line))
try:
    parser.parse_model(text)
    refused = False
except parser.ParseError:
    refused = True
print("parser refuses the printed text:", refused)
same = read == {"int8": [1, -2, 3], "int4": [1, 0, -2]} and "...>" in text and refused
raise SystemExit(0 if same else "the behavior has changed")
PYTHON
