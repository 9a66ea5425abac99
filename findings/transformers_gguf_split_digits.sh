#!/usr/bin/env bash
# transformers makes another tokenizer of a GGUF file than the file's name of a split (tokenizer.ggml.pre) says.
#
# Software: transformers 5.23.0, tokenizers 0.23.3, gguf 0.19.0, torch 2.13.0 (without which the file is not read)
# Input: tiny byte-level vocabularies, written with gguf's own writer, with llama.cpp's names of two ways to split a text:
#   "smollm" (SmolLM, SmolLM2) and "llama-bpe" (Llama 3). Neither file has tokenizer.ggml.add_bos_token, which many
#   files of Llama 3 lack.
# Expected: from_pretrained(..., gguf_file=...) gives the tokens of the published tokenizers, as llama.cpp does, an error
#   or a warning. Published are, for SmolLM2, the pre-tokenizer Sequence[Digits(individual_digits), ByteLevel], and for
#   Llama 3 the model with ignore_merges (a word that is a token is one) and a text that begins with BOS.
# Observed: "smollm" is split as GPT-2 does it: of two line ends before a digit, the second stands alone, so that the
#   token of both is never made. "llama-bpe" begins without BOS, and a word that is a token is cut by the merges.
#   Nothing is logged at the default level.
#
# Output seen on 2026-12-01:
#   smollm: '\n\n1' is ['Ċ', 'Ċ', '1'], published ['ĊĊ', '1'], 0 messages
#   llama-bpe: 'abc' is ['ab', 'c'], published ['<B>', 'abc'], 0 messages
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3 \
  gguf==0.19.0 torch==2.13.0 numpy==2.4.6
cd "$work"
cat > run.py <<'PYTHON'
import logging
import warnings

import gguf
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer

TOKENS = ["<B>", "1", "a", "b", "c", "Ċ", "ĊĊ", "ab", "abc"]
MERGES = [("Ċ", "Ċ"), ("a", "b")]
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES])
BOS = processors.TemplateProcessing(single="<B> $A", special_tokens=[("<B>", 0)])
CASES = {"smollm": ("\n\n1", DIGITS, False, None), "llama-bpe": ("abc", BYTES, True, BOS)}


def published(splits: pre_tokenizers.PreTokenizer, whole_words: bool, begins: processors.PostProcessor | None) -> Tokenizer:
    vocabulary = {token: number for number, token in enumerate(TOKENS)}
    tokenizer = Tokenizer(models.BPE(vocabulary, MERGES, ignore_merges=whole_words))
    tokenizer.pre_tokenizer = splits
    if begins is not None:
        tokenizer.post_processor = begins
    return tokenizer


def write(path: str, name: str) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] + [1] * (len(TOKENS) - 1))
    writer.add_token_merges([" ".join(merge) for merge in MERGES])
    writer.add_bos_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


messages: list[str] = []
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
logging.getLogger("transformers").addHandler(handler)
seen = {}
for name, (text, *parts) in CASES.items():
    write(f"{name}.gguf", name)
    messages.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read = AutoTokenizer.from_pretrained(".", gguf_file=f"{name}.gguf")
    expected = published(*parts).encode(text).tokens
    found = read.convert_ids_to_tokens(read(text).input_ids)
    said = len(messages) + len(caught)
    print(f"{name}: {text!r} is {found}, published {expected}, {said} messages")
    seen[name] = expected, found, said
    for message in [*messages, *(str(each.message) for each in caught)]:
        print("   ", message[:200])
wanted = {
    "smollm": (["ĊĊ", "1"], ["Ċ", "Ċ", "1"], 0),
    "llama-bpe": (["<B>", "abc"], ["ab", "c"], 0),
}
raise SystemExit(0 if seen == wanted else "the behavior has changed")
PYTHON
HF_HUB_OFFLINE=1 "$work/venv/bin/python" run.py
