#!/usr/bin/env bash
# Substring tests in chat templates are always false in onnxruntime-genai.
#
# Software: onnxruntime-genai 0.18.0, Jinja2 3.1.6
# Input: templates with substring tests, as those of reasoning and tool models have ("</think>" in message.content),
#   and a message that holds the word.
# Expected: the result of Jinja2, the language of the templates; or an error, as for other unsupported parts of it.
# Observed: "in" works for lists but is always false for texts, and content[0] is empty. No error; the prompt takes
#   the other branch. split(), which such templates use too, works.
#
# Output seen on 2026-11-28:
#   in, list: Jinja2 True, onnxruntime-genai True
#   in, text: Jinja2 True, onnxruntime-genai False
#   not in, text: Jinja2 False, onnxruntime-genai True
#   character: Jinja2 [<], onnxruntime-genai []
#   split: Jinja2 four, onnxruntime-genai four
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime-genai==0.18.0 onnxruntime==1.32.0 jinja2==3.1.6 tokenizers==0.23.3 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import json
from pathlib import Path

import jinja2
import onnxruntime_genai
from tokenizers import Tokenizer, models

Tokenizer(models.BPE({"a": 0, "b": 1}, [])).save("tokenizer.json")
Path("tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
decoder = {"filename": "model.onnx", "head_size": 4, "hidden_size": 4, "num_attention_heads": 1}
decoder |= {"num_hidden_layers": 1, "num_key_value_heads": 1}
config = {"type": "llama", "vocab_size": 2, "context_length": 8, "eos_token_id": 0, "decoder": decoder}
Path("genai_config.json").write_text(json.dumps({"model": config, "search": {"max_length": 8}}))
tokenizer = onnxruntime_genai.Tokenizer(".")

messages = [{"role": "assistant", "content": "<think>two</think>four"}]
templates = {
    "in, list": "{{ messages[0].role in ['user', 'assistant'] }}",
    "in, text": "{{ '</think>' in messages[0].content }}",
    "not in, text": "{{ '</think>' not in messages[0].content }}",
    "character": "[{{ messages[0].content[0] }}]",
    "split": "{{ messages[0].content.split('</think>')[-1] }}",
}
seen = {}
for name, template in templates.items():
    right = jinja2.Template(template).render(messages=messages)
    seen[name] = [right, tokenizer.apply_chat_template(json.dumps(messages), template_str=template)]
    print(f"{name}: Jinja2 {right}, onnxruntime-genai {seen[name][1]}")
expected = {"in, list": ["True", "True"], "in, text": ["True", "False"], "not in, text": ["False", "True"]}
expected |= {"character": ["[<]", "[]"], "split": ["four", "four"]}
raise SystemExit(0 if seen == expected else "the behavior has changed")
PYTHON
