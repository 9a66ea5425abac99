#!/usr/bin/env bash
# transformers takes a tensor from another file than the index of a sharded checkpoint names.
#
# Software: transformers 5.23.0, safetensors 0.8.0
# Input: a small Llama in two safetensors files with model.safetensors.index.json. The last norm is in both files, ones in
#   the first and twos in the second, as merging tools leave it; the index names the first file for it.
# Expected: the values of the file that the index names, or an error.
# Observed: those of the file that sorts last. No warning.
#
# Output seen on 2026-11-28:
#   the index names model-00001-of-00002.safetensors, which holds 1.0
#   loaded: 2.0
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 safetensors==0.8.0 torch==2.14.1
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" 2>/dev/null - <<'PYTHON'
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

shape = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
shape |= {"num_attention_heads": 4, "num_key_value_heads": 2}
AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **shape)).save_pretrained("model")
whole = Path("model/model.safetensors")
tensors = load_file(whole)
whole.unlink()
norm, head = "model.norm.weight", "lm_head.weight"
first, second = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
parts = {
    first: {name: value for name, value in tensors.items() if name != head} | {norm: torch.full((32,), 1.0)},
    second: {head: tensors[head], norm: torch.full((32,), 2.0)},
}
for name, part in parts.items():
    save_file(part, f"model/{name}", metadata={"format": "pt"})
places = {name: second if name == head else first for name in tensors}
Path("model/model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))

print(f"the index names {places[norm]}, which holds {parts[places[norm]][norm][0].item()}")
loaded = AutoModelForCausalLM.from_pretrained("model").model.norm.weight[0].item()
print(f"loaded: {loaded}")
raise SystemExit(0 if loaded == 2.0 else "the behavior has changed")
PYTHON
