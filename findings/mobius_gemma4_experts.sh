#!/usr/bin/env bash
# mobius-onnx builds Gemma 4's experts with SiLU, and without the scale that each expert has.
#
# Software: mobius-onnx 0.1.0, transformers 5.23.0
# Input: config.json of a small Gemma 4 (text) with experts: hidden_activation "gelu_pytorch_tanh", as in every published
#   one, and all heads of one size.
# Expected: experts have that activation and are weighted by router.per_expert_scale, as in transformers.
# Observed: each layer has one MoE node of activation_type "swiglu" with alpha 1, which is SiLU; no initializer holds the
#   scales, and their tensors of a checkpoint are dropped. The dense MLP beside it has Gelu. No warning. (Where layers
#   have heads of two sizes, as published models have, building ends with an error under transformers 5.23.)
#
# Output seen on 2026-11-29:
#   MoE nodes: 2, activation swiglu, alpha 1.0
#   initializers with per_expert_scale: 0, in transformers: 2
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
shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "global_head_dim": 16, "hidden_size_per_layer_input": 0}
shape |= {"layer_types": ["sliding_attention", "full_attention"], "enable_moe_block": True, "num_experts": 4}
config = AutoConfig.for_model("gemma4_text", **shape, top_k_experts=2, moe_intermediate_size=32)
config.save_pretrained("model")
package = mobius.build("model", "gemma4-text-generation", dtype="f32", load_weights=False, execution_provider="default")
graph = package["model"].graph
nodes = [node.attributes for node in graph if node.op_type == "MoE"]
kind, alpha = nodes[0]["activation_type"].as_string(), nodes[0]["activation_alpha"].as_float()
print(f"MoE nodes: {len(nodes)}, activation {kind}, alpha {alpha}")
held = [name for name in graph.initializers if "per_expert_scale" in name]
right = [name for name in AutoModelForCausalLM.from_config(config).state_dict() if "per_expert_scale" in name]
print(f"initializers with per_expert_scale: {len(held)}, in transformers: {len(right)}")
seen = (len(nodes), kind, alpha, len(held), len(right))
raise SystemExit(0 if seen == (2, "swiglu", 1.0, 0, 2) else "the behavior has changed")
PYTHON
