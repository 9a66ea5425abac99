#!/usr/bin/env bash
# optimum-onnx exports Gemma 2 with grouped key heads and then feeds it a cache of the wrong shape.
#
# Software: optimum-onnx 0.1.0, optimum 2.1.0, transformers 4.57.6, torch 2.14.1, onnxruntime 1.32.0
# Input: a random Gemma 2 with 4 attention heads and 2 key heads (the class's own kind of grouping), exported by optimum
#   itself, then generate() of three tokens. A Llama of the same shape beside it.
# Expected: both generate.
# Observed: Llama does. For Gemma 2 the empty cache of the first step has a head for each attention head, where the
#   exported graph declares the key heads, and ONNX Runtime refuses it.
#
# Output seen on 2026-11-28:
#   llama: generated 3 tokens
#   gemma2: InvalidArgument, cache has 4 heads, the graph 2
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check optimum-onnx==0.1.0 optimum==2.1.0 \
  transformers==4.57.6 torch==2.14.1 onnxruntime==1.32.0
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" 2>/dev/null - <<'PYTHON'
import re

import torch
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoConfig, AutoModelForCausalLM

shape = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
seen = {}
for name in ("llama", "gemma2"):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **shape)).save_pretrained(name)
    model = ORTModelForCausalLM.from_pretrained(name, export=True)
    try:
        ids = model.generate(torch.tensor([[5, 6, 7]]), min_new_tokens=3, max_new_tokens=3, do_sample=False)
        seen[name] = f"generated {ids.shape[1] - 3} tokens"
    except Exception as error:
        got, expected = re.search(r"Got: (\d+) Expected: (\d+)", str(error)).groups()
        seen[name] = f"{type(error).__name__}, cache has {got} heads, the graph {expected}"
    print(f"{name}: {seen[name]}")
expected = {"llama": "generated 3 tokens", "gemma2": "InvalidArgument, cache has 4 heads, the graph 2"}
raise SystemExit(0 if seen == expected else "the behavior has changed")
PYTHON
