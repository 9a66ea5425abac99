#!/usr/bin/env bash
# onnxruntime-genai keeps the line ends after template blocks that transformers removes.
#
# Software: onnxruntime-genai 0.18.0, transformers 5.23.0
# Input: a chat template written over several indented lines, without "-" in its tags, and two messages.
# Expected: the prompt of transformers, which renders all templates with trim_blocks and lstrip_blocks.
# Observed: the line end after each tag and the blanks before it are part of the prompt. No error.
#
# Output seen on 2026-11-28:
#   transformers:      '<|user|>a\n<|model|>b\n'
#   onnxruntime-genai: '\n    \n<|user|>a\n    \n\n    \n<|model|>b\n    \n'
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime-genai==0.18.0 onnxruntime==1.32.0 transformers==5.23.0 jinja2==3.1.6 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import json
from pathlib import Path

import onnxruntime_genai
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer

TEMPLATE = """{% for m in messages %}
    {% if m.role == 'user' %}
<|user|>{{ m.content }}
    {% else %}
<|model|>{{ m.content }}
    {% endif %}
{% endfor %}
"""
Tokenizer(models.BPE({"a": 0, "b": 1}, [])).save("tokenizer.json")
settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}
Path("tokenizer_config.json").write_text(json.dumps(settings))
decoder = {"filename": "model.onnx", "head_size": 4, "hidden_size": 4, "num_attention_heads": 1}
decoder |= {"num_hidden_layers": 1, "num_key_value_heads": 1}
config = {"type": "llama", "vocab_size": 2, "context_length": 8, "eos_token_id": 0, "decoder": decoder}
Path("genai_config.json").write_text(json.dumps({"model": config, "search": {"max_length": 8}}))

messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
right = AutoTokenizer.from_pretrained(".").apply_chat_template(messages, tokenize=False)
seen = onnxruntime_genai.Tokenizer(".").apply_chat_template(json.dumps(messages), add_generation_prompt=False)
print("transformers:     ", repr(right))
print("onnxruntime-genai:", repr(seen))
same = right == "<|user|>a\n<|model|>b\n" and seen != right and "".join(seen.split()) == "".join(right.split())
raise SystemExit(0 if same else "the behavior has changed")
PYTHON
