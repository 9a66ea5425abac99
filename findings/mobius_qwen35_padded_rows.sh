#!/usr/bin/env bash
# mobius-onnx builds Qwen 3.5 so that padding enters the states of its linear attention.
#
# Software: mobius-onnx 0.1.0, transformers 5.23.0, onnxruntime 1.32.0, torch 2.14.1
# Input: a small random Qwen 3.5 (text), and 20 tokens: alone, and behind 5 columns of padding that attention_mask has
#   zeros for, as a tokenizer pads the shorter row of a batch.
# Expected: the logits of the 20 tokens are the same, as in transformers.
# Observed: alone they are those of transformers. Behind padding they are others, and not a number where the embedding
#   of the padding token is zero, as transformers initializes it: keys are divided by their norms without an epsilon.
#   The mask goes to attention alone, not to convolutions and linear attention. No warning.
#
# Output seen on 2026-11-29:
#   pad_token_id None: alone 0.000001, behind padding 1.301817, transformers behind padding 0.000001
#   pad_token_id 0: alone 0.000001, behind padding nan, transformers behind padding 0.000001
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check mobius-onnx==0.1.0 transformers==5.23.0 torch==2.14.1 \
    onnxruntime==1.32.0
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" 2>/dev/null - <<'PYTHON'
import math

import mobius
import numpy as np
import onnxruntime as ort
import torch
from transformers import AutoConfig, AutoModelForCausalLM

TOKENS, PADDING = 20, 5
shape = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 32}
shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
shape |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16}
shape |= {"linear_value_head_dim": 16, "layer_types": ["linear_attention", "full_attention"]}


def exported(session, ids, mask):
    feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": np.maximum(mask.cumsum(1) - 1, 0)}
    for value in session.get_inputs():
        if value.name not in feeds:
            sizes = [size if isinstance(size, int) else 0 for size in value.shape[1:]]
            feeds[value.name] = np.zeros((1, *sizes), np.float32)
    return session.run(["logits"], feeds)[0]


def compare(pad_token_id):
    torch.manual_seed(0)
    config = AutoConfig.for_model("qwen3_5_text", **shape, pad_token_id=pad_token_id)
    model = AutoModelForCausalLM.from_config(config).eval()
    name = f"pad_{pad_token_id}"
    model.save_pretrained(name)
    mobius.build(name, dtype="f32").save(f"{name}_onnx", progress_bar=False)
    session = ort.InferenceSession(f"{name}_onnx/model.onnx", providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(0).integers(3, 60, (1, TOKENS))
    padded = np.pad(ids, ((0, 0), (PADDING, 0)))
    mask = np.pad(np.ones_like(ids), ((0, 0), (PADDING, 0)))
    with torch.inference_mode():
        right = model(torch.from_numpy(ids)).logits.numpy()
        other = model(torch.from_numpy(padded), attention_mask=torch.from_numpy(mask)).logits.numpy()
    found = exported(session, ids, np.ones_like(ids)), exported(session, padded, mask)[:, PADDING:], other[:, PADDING:]
    errors = [float(np.abs(each - right).max() / np.abs(right).max()) for each in found]
    alone, behind, transformers = errors
    print(f"pad_token_id {pad_token_id}: alone {alone:.6f}, behind padding {behind:.6f}, ", end="")
    print(f"transformers behind padding {transformers:.6f}")
    return alone < 1e-4 and transformers < 1e-4 and (math.isnan(behind) or behind > 0.1)


seen = [compare(None), compare(0)]
raise SystemExit(0 if all(seen) else "the behavior has changed")
PYTHON
