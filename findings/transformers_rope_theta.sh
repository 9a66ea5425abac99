#!/usr/bin/env bash
# transformers 4 reads a config.json of transformers 5 with another rotary base, without a warning.
#
# Software: transformers 5.23.0 and 4.57.6
# Input: a Llama configuration with rope_theta 500000 (that of Llama 3), saved by transformers 5.
# Expected: transformers 4 uses 500000, or says that it does not know the key. (Exporters still need it: optimum-onnx
#   0.1.0 asks for transformers below 4.58.)
# Observed: transformers 5 writes rope_parameters instead of rope_theta. transformers 4 keeps the unknown key as an
#   attribute and takes the default, 10000: all positions of the model are wrong.
#
# Output seen on 2026-11-28:
#   saved by 5.23.0: rope_theta None rope_parameters {'rope_theta': 500000.0, 'rope_type': 'default'}
#   read by 4.57.6: rope_theta 10000.0 rope_scaling None
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for version in 5.23.0 4.57.6; do
    python3 -m venv "$work/$version"
    "$work/$version/bin/pip" install --quiet --disable-pip-version-check transformers==$version
done
cd "$work"
"$work/5.23.0/bin/python" - <<'PYTHON'
from transformers import LlamaConfig

LlamaConfig(rope_theta=500000.0).save_pretrained("model")
PYTHON
"$work/4.57.6/bin/python" - <<'PYTHON'
import json
from pathlib import Path

from transformers import AutoConfig

saved = json.loads(Path("model/config.json").read_text())
config = AutoConfig.from_pretrained("model")
print("saved by 5.23.0: rope_theta", saved.get("rope_theta"), "rope_parameters", saved.get("rope_parameters"))
print("read by 4.57.6: rope_theta", config.rope_theta, "rope_scaling", config.rope_scaling)
same = saved["rope_parameters"]["rope_theta"] == 500000.0 and config.rope_theta == 10000.0
raise SystemExit(0 if same else "the behavior has changed")
PYTHON
