#!/usr/bin/env bash
# onnxruntime-genai encodes without the BOS token that the files of the model ask for.
#
# Software: onnxruntime-genai 0.18.0, transformers 5.23.0
# Input: a tokenizer whose post-processor puts <s> in front, and tokenizer_config.json with add_bos_token true, as Llama
#   and Gemma models have.
# Expected: encode() puts <s> in front, as transformers does by default.
# Observed: no <s>, until update_options(add_special_tokens="true") is called. No warning.
#
# Output seen on 2026-11-28:
#   transformers: 3 tokens, BOS True
#   onnxruntime-genai: 2 tokens, BOS False
#   with add_special_tokens: 3 tokens, BOS True
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime-genai==0.18.0 onnxruntime==1.32.0 transformers==5.23.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import json
from pathlib import Path

import onnxruntime_genai
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer

vocabulary = {letter: i for i, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
tokenizer = Tokenizer(models.BPE(vocabulary | {"<s>": 256, "</s>": 257}, []))
tokenizer.add_special_tokens(["<s>", "</s>"])
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
tokenizer.save("tokenizer.json")
settings = {"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
Path("tokenizer_config.json").write_text(json.dumps(settings))
decoder = {"filename": "model.onnx", "head_size": 4, "hidden_size": 4, "num_attention_heads": 1}
decoder |= {"num_hidden_layers": 1, "num_key_value_heads": 1}
config = {"type": "llama", "vocab_size": 258, "context_length": 8, "bos_token_id": 256, "eos_token_id": 257}
config["decoder"] = decoder
Path("genai_config.json").write_text(json.dumps({"model": config, "search": {"max_length": 8}}))

genai = onnxruntime_genai.Tokenizer(".")
seen = {"transformers": AutoTokenizer.from_pretrained(".")("hi")["input_ids"]}
seen["onnxruntime-genai"] = genai.encode("hi").tolist()
genai.update_options(add_special_tokens="true")
seen["with add_special_tokens"] = genai.encode("hi").tolist()
for name, tokens in seen.items():
    print(f"{name}: {len(tokens)} tokens, BOS {256 in tokens}")
expected = [True, False, True]
raise SystemExit(0 if [256 in tokens for tokens in seen.values()] == expected else "the behavior has changed")
PYTHON
