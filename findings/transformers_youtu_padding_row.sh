#!/usr/bin/env bash
# transformers loads a tied Youtu with zeros where the file has the embedding of the padding token.
#
# Software: transformers 5.23.0
# Input: a small Youtu with tied embeddings, pad_token_id 3 and an embedding of 0.5 everywhere, saved and loaded again;
#   a Llama of the same kind beside it.
# Expected: the loaded row is the saved one. As the head is tied, it is also the weights of that token's logit.
# Observed: for Youtu the row is zeros, so the token's logit is always 0. No warning. Llama keeps its row.
#
# Output seen on 2026-11-28:
#   llama: saved 0.5, loaded 0.5
#   youtu: saved 0.5, loaded 0.0
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 safetensors==0.8.0 torch==2.14.1
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" 2>/dev/null - <<'PYTHON'
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

shape = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
shape |= {"num_attention_heads": 4, "tie_word_embeddings": True, "pad_token_id": 3}
seen = {}
for name in ("llama", "youtu"):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **shape))
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(0.5)
    model.save_pretrained(name)
    (saved,) = (value for key, value in load_file(f"{name}/model.safetensors").items() if "embed_tokens" in key)
    loaded = AutoModelForCausalLM.from_pretrained(name).get_input_embeddings().weight
    seen[name] = (saved[3, 0].item(), loaded[3, 0].item())
    print(f"{name}: saved {seen[name][0]}, loaded {seen[name][1]}")
raise SystemExit(0 if seen == {"llama": (0.5, 0.5), "youtu": (0.5, 0.0)} else "the behavior has changed")
PYTHON
