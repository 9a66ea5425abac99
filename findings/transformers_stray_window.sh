#!/usr/bin/env bash
# transformers generates other text with its cache than without, where a Llama's config.json has a sliding_window.
#
# Software: transformers 5.23.0
# Input: a random Llama whose configuration carries sliding_window 16, a key that LlamaConfig does not have and that
#   converted checkpoints bring from Mistral or Qwen. 24 tokens, then 8 more, one by one.
# Expected: the logits of one call over all 32 tokens, which ignores the key. Or the window in both.
# Observed: the cache keeps the last 15 keys only, so the last logits are others. No warning.
#
# Output seen on 2026-11-28:
#   one call and cached steps differ by 0.51 of the largest logit, without sliding_window by 0.00
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 torch==2.13.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


@torch.inference_mode()
def difference(**values):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, **values)).eval()
    for parameter in model.parameters():
        parameter.normal_(0, 0.2)
    ids = torch.randint(3, 64, (1, 32))
    whole = model(ids, use_cache=False).logits[0, -1]
    output = model(ids[:, :24], use_cache=True)
    for token in range(24, 32):
        output = model(ids[:, token : token + 1], past_key_values=output.past_key_values, use_cache=True)
    return float((output.logits[0, -1] - whole).abs().max() / whole.abs().max())


stray, plain = difference(sliding_window=16), difference()
print(f"one call and cached steps differ by {stray:.2f} of the largest logit, without sliding_window by {plain:.2f}")
raise SystemExit(0 if stray > 0.01 and plain < 0.001 else "the behavior has changed")
PYTHON
