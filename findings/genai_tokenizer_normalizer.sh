#!/usr/bin/env bash
# onnxruntime-genai leaves out the normalizer that tokenizer.json asks for.
#
# Software: onnxruntime-genai 0.18.0, tokenizers 0.23.3
# Input: a byte-level tokenizer with the normalizer Lowercase, and the words "hello" and "Hello". (Tokenizers of Qwen
#   models have a normalizer too, NFC.)
# Expected: the same token for both words, as tokenizers gives; or an error that the normalizer is not supported.
# Observed: "Hello" is encoded as it stands and gives other tokens. No error.
#
# Output seen on 2026-11-28:
#   hello: tokenizers [259], onnxruntime-genai [259]
#   Hello: tokenizers [259], onnxruntime-genai [39, 256, 258]
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime-genai==0.18.0 onnxruntime==1.32.0 tokenizers==0.23.3 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import json
from pathlib import Path

import onnxruntime_genai
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

tokenizer = Tokenizer(models.BPE())
tokenizer.normalizer = normalizers.Lowercase()
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
alphabet = pre_tokenizers.ByteLevel.alphabet()
tokenizer.train_from_iterator(["hello"] * 3, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
tokenizer.save("tokenizer.json")
Path("tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer"}))
decoder = {"filename": "model.onnx", "head_size": 4, "hidden_size": 4, "num_attention_heads": 1}
decoder |= {"num_hidden_layers": 1, "num_key_value_heads": 1}
config = {"type": "qwen2", "vocab_size": 300, "context_length": 8, "eos_token_id": 0, "decoder": decoder}
Path("genai_config.json").write_text(json.dumps({"model": config, "search": {"max_length": 8}}))
genai = onnxruntime_genai.Tokenizer(".")

seen = {}
for text in ("hello", "Hello"):
    seen[text] = [tokenizer.encode(text).ids, genai.encode(text).tolist()]
    print(f"{text}: tokenizers {seen[text][0]}, onnxruntime-genai {seen[text][1]}")
word = seen["hello"][0]
same = seen["hello"] == [word, word] and seen["Hello"][0] == word and seen["Hello"][1] != word
raise SystemExit(0 if same else "the behavior has changed")
PYTHON
