#!/usr/bin/env bash
# mobius-onnx builds Gemma 3 with the wrong factor of attention scores where query_pre_attn_scalar is not the head size.
#
# Software: mobius-onnx 0.1.0, transformers 5.23.0
# Input: config.json of a small Gemma 2 and Gemma 3 (text) with head_dim 16 and query_pre_attn_scalar 64. Gemma 3 27B has
#   168 and 128.
# Expected: scores are divided by the root of query_pre_attn_scalar, 8, in both, as in transformers.
# Observed: so it is for Gemma 2. For Gemma 3 it is the root of the head size, 4. No warning.
#
# Output seen on 2026-11-28:
#   gemma2: scale of Attention 0.125, transformers 0.125
#   gemma3_text: scale of Attention 0.25, transformers 0.125
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check mobius-onnx==0.1.0 transformers==5.23.0 torch==2.14.1
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" 2>/dev/null - <<'PYTHON'
import mobius
from transformers import AutoConfig, AutoModelForCausalLM

shape = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16}
shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "query_pre_attn_scalar": 64}
seen = {}
for name in ("gemma2", "gemma3_text"):
    config = AutoConfig.for_model(name, **shape)
    config.save_pretrained(name)
    package = mobius.build(name, "text-generation", dtype="f32", load_weights=False, execution_provider="default")
    nodes = [node for node in package["model"].graph if node.op_type == "Attention"]
    (scale,) = {node.attributes["scale"].as_float() for node in nodes}
    right = AutoModelForCausalLM.from_config(config).model.layers[0].self_attn.scaling
    seen[name] = (scale, right)
    print(f"{name}: scale of Attention {scale}, transformers {right}")
expected = {"gemma2": (0.125, 0.125), "gemma3_text": (0.25, 0.125)}
raise SystemExit(0 if seen == expected else "the behavior has changed")
PYTHON
