#!/usr/bin/env bash
# MLX's two-bit quantizer cuts one end of a group off: ternary weights of -1, 0 and 1 come back as -0.5, 0 and 1.
#
# Software: mlx 0.32.4 (mlx.core.quantize, mode affine, on the CPU), numpy 2.4.6
# Input: weights of a group that four evenly spaced levels hold exactly: -1, 0, 1, and -1, 1.
# Expected: those values; or, from a rule that spreads four levels from the least to the largest weight, no error above
#   half a step, a third.
# Observed: the step is the larger end divided by a whole number, so that 0 is a level: 1 / round(1.5) = 0.5. From 1 down
#   four levels then end at -0.5. The error of -1 is 0.5. With four bits both groups are exact. A step of 1 and a bias of -1,
#   which the same format holds, are exact with two bits.
#
# Output seen on 2026-11-30:
#   2 bits, ternary: step -0.5, bias 1, values -0.5 0 1, largest error 0.5
#   2 bits, signs: step -0.5, bias 1, values -0.5 1, largest error 0.5
#   4 bits, ternary: step -0.142857, bias 1, values -1 0 1, largest error 0
#   4 bits, signs: step -0.142857, bias 1, values -1 1, largest error 0
#   2 bits, ternary, step 1 and bias -1 by hand: values -1 0 1, largest error 0
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "mlx[cpu]==0.32.4" numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import mlx.core as mx
import numpy as np

G = 64
GROUPS = {"ternary": np.arange(G) % 3 - 1.0, "signs": np.arange(G) % 2 * 2 - 1.0}


def words(values):
    return " ".join(f"{value:g}" for value in sorted(set(np.round(values.ravel(), 6).tolist())))


errors = {}
for bits in (2, 4):
    for name, values in GROUPS.items():
        weight = values.astype(np.float32)[None]
        packed, step, bias = mx.quantize(mx.array(weight), group_size=G, bits=bits)
        back = np.array(mx.dequantize(packed, step, bias, group_size=G, bits=bits))
        error = errors[bits, name] = float(np.abs(back - weight).max())
        if error < 1e-6:
            error = errors[bits, name] = 0.0
        numbers = f"step {step.item():g}, bias {bias.item():g}"
        print(f"{bits} bits, {name}: {numbers}, values {words(back)}, largest error {error:g}")

weight = GROUPS["ternary"].astype(np.float32)[None]
codes = (weight + 1).astype(np.uint32).reshape(-1, 16)  # sixteen codes of two bits to a word, the first lowest
packed = (codes << np.arange(0, 32, 2, dtype=np.uint32)).sum(1, dtype=np.uint32)[None]
one = mx.array(np.ones((1, 1), np.float32))
back = np.array(mx.dequantize(mx.array(packed), one, -one, group_size=G, bits=2))
by_hand = float(np.abs(back - weight).max())
print(f"2 bits, ternary, step 1 and bias -1 by hand: values {words(back)}, largest error {by_hand:g}")

same = all(error == (0.5 if bits == 2 else 0.0) for (bits, _), error in errors.items()) and by_hand == 0
raise SystemExit(0 if same else "the behavior has changed")
PYTHON
