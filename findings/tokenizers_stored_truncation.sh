#!/usr/bin/env bash
# Truncation and padding stored in tokenizer.json are applied by tokenizers and ignored by transformers.
#
# Software: tokenizers 0.23.3, transformers 5.23.0
# Input: a tokenizer.json saved after training with enable_truncation(4) and enable_padding(length=6), as the files of
#   some fine-tuned models are, and texts of 8 words and of 1 word.
# Expected: the same tokens from both, as transformers reads the same file with the same library.
# Observed: tokenizers cuts the long text to 4 tokens and fills both up to 6; transformers gives 8 tokens and 1. A
#   program that loads tokenizer.json itself loses the end of its prompts, without an error.
#
# Output seen on 2026-11-28:
#   8 words: tokenizers [1, 1, 1, 1, 0, 0], transformers [1, 1, 1, 1, 1, 1, 1, 1]
#   1 words: tokenizers [1, 0, 0, 0, 0, 0], transformers [1]
#   after no_truncation() and no_padding(): [1, 1, 1, 1, 1, 1, 1, 1]
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3 transformers==5.23.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.enable_truncation(4)
tokenizer.enable_padding(length=6, pad_token="[UNK]")
tokenizer.save("tokenizer.json")
Path("tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))

direct, automatic = Tokenizer.from_file("tokenizer.json"), AutoTokenizer.from_pretrained(".")
seen = []
for words in (8, 1):
    text = " ".join(["a"] * words)
    seen.append([direct.encode(text).ids, automatic(text)["input_ids"]])
    print(f"{words} words: tokenizers {seen[-1][0]}, transformers {seen[-1][1]}")
direct.no_truncation()
direct.no_padding()
cleared = direct.encode("a a a a a a a a").ids
print("after no_truncation() and no_padding():", cleared)
expected = [[[1, 1, 1, 1, 0, 0], [1] * 8], [[1, 0, 0, 0, 0, 0], [1]]]
raise SystemExit(0 if seen == expected and cleared == [1] * 8 else "the behavior has changed")
PYTHON
