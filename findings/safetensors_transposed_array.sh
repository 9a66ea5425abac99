#!/usr/bin/env bash
# safetensors writes a transposed NumPy array with its values in the wrong places.
#
# Software: safetensors 0.8.0, NumPy 2.4.6
# Input: a float32 array [2, 3] and its transpose [3, 2], saved with safetensors.numpy.save_file.
# Expected: load_file gives back what was saved, or save_file raises an error, as the functions for PyTorch do.
#   (Only the description of the argument says that arrays have to be contiguous.)
# Observed: the shape is that of the transpose, the values are in the order of the original memory. No error.
#   Weights that a converter transposes before saving (Conv1D layers, packed formats) come out scrambled.
#
# Output seen on 2026-11-28:
#   plain: saved [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], loaded [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], equal True
#   transposed: saved [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]], loaded [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], equal False
#   copied: saved [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]], loaded [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]], equal True
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
from safetensors.numpy import load_file, save_file

array = np.arange(6, dtype=np.float32).reshape(2, 3)
saved = {"plain": array, "transposed": array.T, "copied": np.ascontiguousarray(array.T)}
save_file(saved, "x.safetensors")
loaded = load_file("x.safetensors")
equal = {}
for name, value in saved.items():
    equal[name] = bool(np.array_equal(loaded[name], value))
    print(f"{name}: saved {value.tolist()}, loaded {loaded[name].tolist()}, equal {equal[name]}")
expected = {"plain": True, "transposed": False, "copied": True}
raise SystemExit(0 if equal == expected else "the behavior has changed")
PYTHON
