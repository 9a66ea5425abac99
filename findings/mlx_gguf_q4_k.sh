#!/usr/bin/env bash
# MLX reads half of the weights of a GGUF file's Q4_K tensors with the scale of their neighbors, without a message.
#
# Software: mlx 0.32.4 and 0.25.2 (mlx.core.load, on the CPU), gguf 0.19.0
# Input: GGUF files with one tensor of Q4_K, the type of most weights in Q4_K_M files, or of Q2_K, Q6_K, Q4_0. A block of
#   Q4_K has 256 weights in 8 groups of 32, with a scale and a minimum of 6 bits each.
# Expected: the values that gguf's own dequantize gives, in float16: "when loading unsupported quantization formats from
#   GGUF, tensors will automatically cast to mx.float16". Or an error.
# Observed: so for Q2_K, Q6_K and Q4_0. Of Q4_K, the second group of each pair is read with the scale and the minimum of the
#   first one; its own are not used.
#
# Output seen on 2026-12-01:
#   mlx 0.25.2:
#     Q4_K: float16, wrong weights by group of a block: 0 % 100 % 0 % 100 % 0 % 100 % 0 % 100 %
#       as if each pair of groups had the scale and minimum of its first: True
#     Q2_K, Q6_K, Q4_0: 0 % wrong, 0 % wrong, 0 % wrong
#   mlx 0.32.4: the same
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/run.py" <<'PYTHON'
import gguf
import mlx.core as mx
import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind

ROWS, COLUMNS, GROUP = 8, 1024, 32
# Where a block has its float16 numbers, which are set to plain values; all else may be any bytes.
FACTORS = {Kind.Q4_K: (0, 2), Kind.Q2_K: (80, 82), Kind.Q6_K: (208,), Kind.Q4_0: (0,)}


def blocks(kind):
    size, length = GGML_QUANT_SIZES[kind]
    found = np.random.default_rng(0).integers(0, 256, (ROWS, COLUMNS // size, length), dtype=np.uint8)
    for place in FACTORS[kind]:
        found[..., place : place + 2] = np.frombuffer(np.float16(2**-7).tobytes(), np.uint8)
    return found


def loaded(kind, stored):
    writer = gguf.GGUFWriter("one.gguf", "llama")
    writer.add_tensor("one.weight", stored.reshape(ROWS, -1), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    arrays = mx.load("one.gguf")
    weight = arrays["one.weight"]
    if "one.scales" in arrays:
        weight = mx.dequantize(weight, arrays["one.scales"], arrays["one.biases"], group_size=GROUP, bits=4)
    return np.array(weight.astype(mx.float32)), weight.dtype


def dequantized(kind, stored):
    return gguf.dequantize(stored.reshape(ROWS, -1), kind)


def wrong(left, right):
    return np.abs(left - right) > 2**-10 * np.abs(right).max()


stored = blocks(Kind.Q4_K)
seen, dtype = loaded(Kind.Q4_K, stored)
by_group = wrong(seen, dequantized(Kind.Q4_K, stored)).reshape(-1, 256 // GROUP, GROUP).mean((0, 2))
shares = " ".join(f"{100 * share:.0f} %" for share in by_group)
print(f"  Q4_K: {str(dtype).rpartition('.')[2]}, wrong weights by group of a block: {shares}")
# The twelve bytes behind the factors are A, B, C: scales 0 to 3 are the lower 6 bits of A, scales 4 to 7 the lower half
# of C below the upper two bits of A; minima likewise of B and the upper half of C.
shared = stored.copy()
for part in (shared[..., 4:8], shared[..., 8:12], shared[..., 12:16]):
    part[..., 1::2] = part[..., ::2]
paired = not wrong(seen, dequantized(Kind.Q4_K, shared)).any()
print(f"    as if each pair of groups had the scale and minimum of its first: {paired}")
others = [wrong(loaded(kind, blocks(kind))[0], dequantized(kind, blocks(kind))).mean() for kind in list(FACTORS)[1:]]
print("  Q2_K, Q6_K, Q4_0:", ", ".join(f"{100 * share:.0f} % wrong" for share in others))
same = paired and not by_group[::2].any() and bool((by_group[1::2] > 0.9).all()) and not any(others)
raise SystemExit(0 if same else "the behavior has changed")
PYTHON
cd "$work"
for version in 0.25.2 0.32.4; do
  python3 -m venv "$work/$version"
  "$work/$version/bin/pip" install --quiet --disable-pip-version-check "mlx[cpu]==$version" gguf==0.19.0 numpy==2.4.6
  echo "mlx $version:"
  "$work/$version/bin/python" run.py
done
