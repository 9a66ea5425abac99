#!/usr/bin/env bash
# transformers 5 replaces the splitting rule of tokenizer.json when tokenizer_class is Qwen2Tokenizer.
#
# Software: transformers 5.23.0, tokenizers 0.23.3
# Input: one tokenizer.json that splits numbers into groups of up to three digits, loaded under three class names.
#   Models trained with their own vocabulary often keep the class name of the model they were derived from.
# Expected: AutoTokenizer follows tokenizer.json, as it does for PreTrainedTokenizerFast and LlamaTokenizerFast.
# Observed: with Qwen2Tokenizer the rule of Qwen2 (digit by digit) is used instead: other tokens than tokenizers gives
#   for the same file, without a warning. Runtimes that read tokenizer.json disagree with transformers.
#
# Output seen on 2026-11-28:
#   tokenizers: 4 tokens ['year', 'Ġ', '202', '4']
#   PreTrainedTokenizerFast: 4 tokens ['year', 'Ġ', '202', '4']
#   LlamaTokenizerFast: 4 tokens ['year', 'Ġ', '202', '4']
#   Qwen2Tokenizer: 6 tokens ['2', '0', '2', '4']
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

tokenizer = Tokenizer(models.BPE())
split = pre_tokenizers.Split(Regex(r"\p{N}{1,3}| ?\p{L}+|\s+"), "isolated")
byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
alphabet = pre_tokenizers.ByteLevel.alphabet()
tokenizer.train_from_iterator(["year 202 123"] * 3, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
tokenizer.save("tokenizer.json")

text = "year 2024"
seen = {"tokenizers": tokenizer.encode(text).tokens}
for name in ("PreTrainedTokenizerFast", "LlamaTokenizerFast", "Qwen2Tokenizer"):
    Path("tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    seen[name] = AutoTokenizer.from_pretrained(".").tokenize(text)
for name, tokens in seen.items():
    print(f"{name}: {len(tokens)} tokens {tokens[-4:]}")
right = seen["tokenizers"]
equal = [tokens == right for tokens in seen.values()]
raise SystemExit(0 if equal == [True, True, True, False] else "the behavior has changed")
PYTHON
