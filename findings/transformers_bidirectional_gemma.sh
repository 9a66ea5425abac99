#!/usr/bin/env bash
# transformers computes two models from one Gemma configuration, depending on the attention implementation.
#
# Software: transformers 5.23.0
# Input: a random Gemma with use_bidirectional_attention true, a field of GemmaConfig.
# Expected: the same logits with attn_implementation "eager" and "sdpa", as every other configuration gives.
# Observed: "sdpa" attends in both directions, "eager" ignores the field. No warning.
#
# Output seen on 2026-11-28:
#   eager and sdpa differ by 1.32 of the largest logit, without the field by 0.00
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 torch==2.13.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import torch
from transformers import AutoModelForCausalLM, GemmaConfig

SIZES = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2}


@torch.inference_mode()
def difference(**values):
    logits = []
    for implementation in ("eager", "sdpa"):
        torch.manual_seed(0)
        config = GemmaConfig(**SIZES, **values)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation).eval()
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
        logits.append(model(torch.arange(3, 35)[None], use_cache=False).logits)
    return float((logits[0] - logits[1]).abs().max() / logits[0].abs().max())


both, plain = difference(use_bidirectional_attention=True), difference()
print(f"eager and sdpa differ by {both:.2f} of the largest logit, without the field by {plain:.2f}")
raise SystemExit(0 if both > 0.01 and plain < 0.001 else "the behavior has changed")
PYTHON
