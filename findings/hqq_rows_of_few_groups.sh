#!/usr/bin/env bash
# HQQ leaves out groups of layers whose number of groups does not fill its bytes, and raises an error only afterwards.
#
# Software: hqq 0.2.8.post1, torch 2.13.0
# Input: linear layers of 64 inputs, quantized with HQQLinear in groups of 32 along the inputs (axis 1), on the CPU.
#   A byte holds a value of each of 8 groups at 1 bit, of 4 at 2 bits, of 2 at 4 bits.
# Expected: the layer's shape, or an error when it is quantized.
# Observed: at 1 bit, the groups beyond a multiple of 8 are not packed: quantizing raises nothing, dequantizing a
#   RuntimeError about sizes of tensors. At 2 bits with 10 groups quantizing itself raises one. Where the groups fill
#   the bytes, and at 3 and 8 bits, the shape is right. No wrong weights were seen.
#
# Output seen on 2026-11-28:
#   1 bits, 8 outputs, 16 groups, packed [2, 32]: weight [8, 64]
#   1 bits, 6 outputs, 12 groups, packed [1, 32]: dequantizing fails, sizes 8 and 12
#   1 bits, 102 outputs, 204 groups, packed [25, 32]: dequantizing fails, sizes 200 and 204
#   2 bits, 6 outputs, 12 groups, packed [3, 32]: weight [6, 64]
#   2 bits, 5 outputs, 10 groups, packed None: quantizing fails, sizes 2 and 4
#   3 bits, 5 outputs, 10 groups, packed [1, 32]: weight [5, 64]
#   4 bits, 5 outputs, 10 groups, packed [5, 32]: weight [5, 64]
#   8 bits, 5 outputs, 10 groups, packed [10, 32]: weight [5, 64]
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check hqq==0.2.8.post1 transformers==5.23.0 torch==2.13.0 \
  numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import re

import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

CASES = {
    (1, 8): "all",
    (1, 6): "dequantizing",
    (1, 102): "dequantizing",
    (2, 6): "all",
    (2, 5): "quantizing",
    (3, 5): "all",
    (4, 5): "all",
    (8, 5): "all",
}
seen = {}
for bits, outputs in CASES:
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, outputs, bias=False)
    config = BaseQuantizeConfig(nbits=bits, group_size=32, axis=1)
    step, packed = "quantizing", None
    try:
        layer = HQQLinear(linear, config, compute_dtype=torch.float32, device="cpu")
        step, packed = "dequantizing", list(layer.W_q.shape)
        weight = layer.dequantize()
        assert weight.shape == (outputs, 64), weight.shape
        seen[bits, outputs], result = "all", f"weight {list(weight.shape)}"
    except RuntimeError as error:
        sizes = " and ".join(re.findall(r"tensor [ab] \((\d+)\)", str(error)))
        seen[bits, outputs], result = step, f"{step} fails, sizes {sizes}"
    print(f"{bits} bits, {outputs} outputs, {2 * outputs} groups, packed {packed}: {result}")
raise SystemExit(0 if seen == CASES else "the behavior has changed")
PYTHON
